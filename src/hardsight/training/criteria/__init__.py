"""What self-supervised methods minimize: pure functions of the views' embeddings; one file per family."""
