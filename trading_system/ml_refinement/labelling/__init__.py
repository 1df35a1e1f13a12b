"""Virtual outcomes: what the bars after a signal say that its trade would have come to."""
