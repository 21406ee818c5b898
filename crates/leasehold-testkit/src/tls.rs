//! A CA and a server certificate, made anew for each stack.

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use crate::postgres::Certificate;
use crate::{Error, Result};

pub(crate) fn certificate() -> Result<Certificate> {
    make().map_err(|e| Error::Server { server: "certificate", detail: e.to_string() })
}

fn make() -> Result<Certificate, rcgen::Error> {
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::new(Vec::<String>::new())?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    ca.distinguished_name.push(DnType::CommonName, "leasehold-testkit CA");
    let ca_pem = ca.self_signed(&ca_key)?.pem();
    let issuer = Issuer::new(ca, ca_key);

    let key = KeyPair::generate()?;
    let mut server = CertificateParams::new(vec!["localhost".into(), "127.0.0.1".into()])?;
    server.distinguished_name.push(DnType::CommonName, "leasehold-testkit Postgres");
    let chain = server.signed_by(&key, &issuer)?.pem();
    Ok(Certificate { ca: ca_pem, chain, key: key.serialize_pem() })
}
