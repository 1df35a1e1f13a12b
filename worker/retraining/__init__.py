"""When to retrain, the queue of trainings, the training, and the process that does it."""
