# Logins of the dynamic role "orders-rw" of the database engine at "database". One block for each
# role that the service uses.
path "database/creds/orders-rw" {
  capabilities = ["read"]
}

# Without it logins are not renewed: each is rotated before its TTL ends.
path "sys/leases/renew" {
  capabilities = ["update"]
}

# Without it a drained lease is ended by a renewal for one second instead. OpenBao's policy
# "default" has the block above, and not this one.
path "sys/leases/revoke" {
  capabilities = ["update"]
}

# The service's own token. "default" has these four; where it is attached, leave them out.
path "auth/token/lookup-self" {
  capabilities = ["read"]
}
path "auth/token/renew-self" {
  capabilities = ["update"]
}
path "auth/token/revoke-self" {
  capabilities = ["update"]
}
# Lets the service say at its start which of all these are missing.
path "sys/capabilities-self" {
  capabilities = ["update"]
}
