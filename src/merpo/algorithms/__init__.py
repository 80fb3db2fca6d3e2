"""One readable file per algorithm: rac, merpo, bc."""
