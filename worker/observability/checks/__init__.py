"""What `refinery doctor` looks at, in parts."""
