"""Events from producers without any way to Redis: lines on a socket of ours, and an answer to each."""
