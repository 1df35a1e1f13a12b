"""Lines that enforce a rule, each broken in a copy of the tree: the tests beside it have to notice."""
