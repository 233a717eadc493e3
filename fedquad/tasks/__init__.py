"""Text in, device shards out: micro-world, GLUE, any folder of TSV files, and their partition."""
