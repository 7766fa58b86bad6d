"""Speed: the harness against bare loops, the flows against other libraries."""
