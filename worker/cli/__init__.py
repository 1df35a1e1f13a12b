"""`refinery`: a file for each group of commands."""
