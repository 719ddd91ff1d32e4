"""How encoders are trained: one method a file. This is the small beginning that the embedded encoders need."""
