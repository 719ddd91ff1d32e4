"""Where results live: files that are whole or not there, and the folder of a cell; never imports torch.

In: rows and records. Out: the same, read again. Another layout or another kind of writer goes here.
"""
