# The login kept under "orders/db" in the KV engine, version 1, at "kv".
path "kv/orders/db" {
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
