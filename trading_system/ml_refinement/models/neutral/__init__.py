"""The market-neutral linear learner: what trades open together share is taken out before features are weighed."""
