"""The processes of an installation."""
