//! A CA, and certificates made by it, anew for each stack.

use std::fmt;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

use crate::postgres::Certificate;
use crate::{Error, Result};

/// The CA of a stack.
pub(crate) struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A client certificate, and its key.
#[derive(Clone)]
#[non_exhaustive]
pub struct ClientCertificate {
    /// The certificate, as PEM.
    pub cert_pem: String,
    /// Its private key, as PEM.
    pub key_pem: String,
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCertificate")
            .field("cert_pem", &self.cert_pem)
            .finish_non_exhaustive()
    }
}

impl Authority {
    pub(crate) fn new() -> Result<Self> {
        Self::make().map_err(failed)
    }

    fn make() -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut ca = CertificateParams::new(Vec::<String>::new())?;
        ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        ca.distinguished_name.push(DnType::CommonName, "leasehold-testkit CA");
        let pem = ca.self_signed(&key)?.pem();
        Ok(Self { pem, issuer: Issuer::new(ca, key) })
    }

    pub(crate) fn pem(&self) -> &str {
        &self.pem
    }

    /// A server's certificate for these host names and addresses.
    pub(crate) fn server(&self, names: &[String]) -> Result<Certificate> {
        let server = ExtendedKeyUsagePurpose::ServerAuth;
        let (chain, key) = self.sign("leasehold-testkit server", names, server).map_err(failed)?;
        Ok(Certificate { chain, key })
    }

    pub(crate) fn client(&self, common_name: &str) -> Result<ClientCertificate> {
        let client = ExtendedKeyUsagePurpose::ClientAuth;
        let (cert_pem, key_pem) = self.sign(common_name, &[], client).map_err(failed)?;
        Ok(ClientCertificate { cert_pem, key_pem })
    }

    fn sign(
        &self,
        common_name: &str,
        names: &[String],
        usage: ExtendedKeyUsagePurpose,
    ) -> Result<(String, String), rcgen::Error> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(names)?;
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        Ok((params.signed_by(&key, &self.issuer)?.pem(), key.serialize_pem()))
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authority")
    }
}

fn failed(e: rcgen::Error) -> Error {
    Error::Server { server: "certificate", detail: e.to_string() }
}
