"""What one looks at: progress, tables and figures, read from the store."""
