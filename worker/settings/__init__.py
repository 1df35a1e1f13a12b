"""Every setting, read once; what is said of a wrong one; what must not be shown."""
