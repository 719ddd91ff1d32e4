"""What an encoder is used for: head, loss, error and counts of one downstream task a file."""
