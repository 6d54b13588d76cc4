"""Other code bases beside ours: one adapter for each, which calls a checkout that the user has.

`make bench PEERS=<folder> ARGS="only=peers"` looks for checkouts in the folder, named as `git clone` names them. No
line of theirs is here. Each adapter has `rows(checkouts)`, and runs in a process of its own, in which the modules of
the peer are imported from its checkout.
"""
