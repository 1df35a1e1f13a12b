"""Redis Streams, and nothing else that knows them."""
