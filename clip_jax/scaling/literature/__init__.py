"""Published laws, fitted again."""
