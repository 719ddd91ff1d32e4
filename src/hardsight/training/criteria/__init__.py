"""What self-supervised methods minimise: pure functions of views' embeddings; one family a file."""
