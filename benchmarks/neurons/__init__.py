"""Register neurons of models: the program of `make neurons`."""
