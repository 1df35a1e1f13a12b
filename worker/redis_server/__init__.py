"""The embedded server, and clients of whichever server there is."""
