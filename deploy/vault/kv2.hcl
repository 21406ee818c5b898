# The login kept under "orders/db" in the KV engine, version 2, at "secret".
path "secret/data/orders/db" {
  capabilities = ["read"]
}

# Its version number, by which a change is seen without reading the secret.
path "secret/metadata/orders/db" {
  capabilities = ["read"]
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
path "sys/capabilities-self" {
  capabilities = ["update"]
}
