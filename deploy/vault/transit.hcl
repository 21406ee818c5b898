# Work for the key "orders" of the Transit engine at "transit". `update` alone: with `create` too,
# encrypting with a name that is misspelt would make a key of that name.
path "transit/encrypt/orders" {
  capabilities = ["update"]
}
path "transit/decrypt/orders" {
  capabilities = ["update"]
}

# What is stored is encrypted anew after a rotation, without the right to read it.
path "transit/rewrap/orders" {
  capabilities = ["update"]
}

# Keyed hashes, and their verification; signatures are verified by the same path.
path "transit/hmac/orders" {
  capabilities = ["update"]
}
path "transit/verify/orders" {
  capabilities = ["update"]
}

# Signatures, by a key of a type that can sign.
path "transit/sign/invoices" {
  capabilities = ["update"]
}
path "transit/verify/invoices" {
  capabilities = ["update"]
}
