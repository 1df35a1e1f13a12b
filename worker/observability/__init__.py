"""What people and their machines look at: log, metrics, health, status, doctor."""
