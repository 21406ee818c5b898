# Issue logins.
path "database/creds/orders-rw" {
  capabilities = ["read"]
}

# Renew and revoke leases. OpenBao's default policy has the first, not the second.
path "sys/leases/renew" {
  capabilities = ["update"]
}
path "sys/leases/revoke" {
  capabilities = ["update"]
}

# The token itself. The default policy has these.
path "auth/token/lookup-self" {
  capabilities = ["read"]
}
path "auth/token/renew-self" {
  capabilities = ["update"]
}
path "auth/token/revoke-self" {
  capabilities = ["update"]
}
