"""Kinds of schedules that take more than a worker, a server and a disk: a module for what each of them befalls."""
