"""``podx bench accuracy``: accuracy of several models beside the rows of the paper and rows that learn nothing."""
