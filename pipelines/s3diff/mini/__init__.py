"""The small S3Diff that ships with the package, from photographs to weights."""
