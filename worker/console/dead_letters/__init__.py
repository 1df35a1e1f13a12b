"""Dead letters in the console: found, looked at, edited, sent again and put away."""
