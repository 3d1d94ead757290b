"""HTTP only, a file for each face. Knows nothing about how an answer is made."""
