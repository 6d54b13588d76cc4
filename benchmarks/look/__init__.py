"""What models see in images: the program of `make look`."""
