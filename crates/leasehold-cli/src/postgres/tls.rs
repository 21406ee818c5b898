//! TLS with Postgres, by libpq's modes: `require` encrypts and trusts anybody, `verify-ca` looks at
//! who signed the certificate, `verify-full` at its name as well.

use std::fs;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

use super::Mode;

/// What is wrong, and what to do about it.
type Trouble = (String, String);

pub(super) fn client(mode: Mode, root: Option<&str>) -> Result<ClientConfig, Trouble> {
    let provider = Arc::new(ring::default_provider());
    // As libpq: whoever names an authority wants it to be looked at.
    let signer = match mode {
        Mode::Disable | Mode::Prefer => None,
        Mode::Require if root.is_none() => None,
        Mode::Require | Mode::VerifyCa | Mode::VerifyFull => {
            let roots = Arc::new(roots(root)?);
            let built = WebPkiServerVerifier::builder_with_provider(roots, provider.clone());
            Some(built.build().map_err(|e| {
                let mend = "name a file with the authority of the server's certificate in \
                            PGSSLROOTCERT (or sslrootcert= in the URL)";
                (format!("no authority to trust ({e})"), mend.to_owned())
            })?)
        }
    };
    let verifier = Verifier { signer, name: mode == Mode::VerifyFull, provider: provider.clone() };
    let versions = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has the ciphers of TLS 1.2 and 1.3");
    let dangerous = versions.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    Ok(dangerous.with_no_client_auth())
}

fn roots(file: Option<&str>) -> Result<RootCertStore, Trouble> {
    let mut roots = RootCertStore::empty();
    match file {
        // libpq's word for those of the system.
        Some(file) if file != "system" => {
            let mend = || "check PGSSLROOTCERT (or sslrootcert= in the URL)".to_owned();
            let pem =
                fs::read(file).map_err(|e| (format!("{file} can't be read ({e})"), mend()))?;
            for cert in CertificateDer::pem_slice_iter(&pem).flatten() {
                // One that is no authority is no use, and no harm.
                let _ = roots.add(cert);
            }
            if roots.is_empty() {
                return Err((format!("{file} holds no certificate in PEM"), mend()));
            }
        }
        _ => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    Ok(roots)
}

#[derive(Debug)]
struct Verifier {
    /// `None`: anybody may have signed it.
    signer: Option<Arc<WebPkiServerVerifier>>,
    /// It has to be for the name that was asked for.
    name: bool,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(signer) = &self.signer else { return Ok(ServerCertVerified::assertion()) };
        match signer.verify_server_cert(end_entity, intermediates, name, ocsp, now) {
            // The name is what is looked at last.
            Err(Error::InvalidCertificate(e)) if !self.name && is_name(&e) => {
                Ok(ServerCertVerified::assertion())
            }
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn is_name(e: &CertificateError) -> bool {
    matches!(e, CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. })
}

/// What to do about a connection that TLS kept from coming about; `None` if it was not TLS.
pub(super) fn mend(e: &tokio_postgres::Error) -> Option<&'static str> {
    use CertificateError::{Expired, ExpiredContext, NotValidYet, NotValidYetContext};
    let causes = || std::iter::successors(std::error::Error::source(e), |e| (*e).source());
    if let Some(tls) = causes().find_map(inside) {
        return Some(match tls {
            Error::InvalidCertificate(e) if is_name(e) => {
                "its certificate is for another name: connect by the name that it is for"
            }
            Error::InvalidCertificate(Expired | ExpiredContext { .. }) => {
                "its certificate has expired: renew it on the server, and check this machine's clock"
            }
            Error::InvalidCertificate(NotValidYet | NotValidYetContext { .. }) => {
                "its certificate is not valid yet: check this machine's clock"
            }
            Error::InvalidCertificate(_) => {
                "its certificate is not trusted: name the authority that signed it in \
                 PGSSLROOTCERT (or sslrootcert= in the URL)"
            }
            _ => "check the TLS settings of Postgres, and what stands in between",
        });
    }
    // The driver's own words, which have no type.
    let no_tls = causes().any(|cause| cause.to_string() == "server does not support TLS");
    let handshake = e.to_string().contains("TLS handshake");
    (no_tls || handshake).then_some(
        "Postgres has TLS switched off: set ssl=on there, or, on a network that you trust, \
         sslmode=disable here",
    )
}

fn inside<'a>(e: &'a (dyn std::error::Error + 'static)) -> Option<&'a Error> {
    match e.downcast_ref::<std::io::Error>() {
        Some(io) => inside(io.get_ref()?),
        None => e.downcast_ref(),
    }
}
