"""A desk's past, from CSV and Parquet files into the streams: what `refinery import` does."""
