# The settings of a service "shop" in the KV engine, version 2, at "secret".
path "secret/data/shop/*" {
  capabilities = ["read"]
}

# Their version numbers, by which a change is seen without reading them, and their names.
path "secret/metadata/shop/*" {
  capabilities = ["read", "list"]
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
