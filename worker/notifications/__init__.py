"""Telling somebody: what a notification says, how it is posted, and who posts those that wait."""
