"""Systems with CXL memory or units that compute beside it."""
