# The login of the static role "orders-static" of the database engine at "database". It has no
# lease: there is nothing to renew or to revoke.
path "database/static-creds/orders-static" {
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
