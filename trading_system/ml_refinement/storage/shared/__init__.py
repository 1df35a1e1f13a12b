"""What processes of several hosts share beside events: the bytes of models, and who may do what only one may."""
