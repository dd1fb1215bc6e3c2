//! The verifier against certificates that are made for each test.

use std::time::Duration;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa,
    Issuer, KeyPair, NameConstraints, date_time_ymd,
};
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};

use super::distrust::{Cure, Distrust};
use super::pem::certificates;
use super::verifier::Verifier;

const HOST: &str = "host1.example.com";

/// The time of all tests: 2026-01-01.
fn now() -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(1_767_225_600))
}

struct Ca {
    certificate: Certificate,
    params: CertificateParams,
    key: KeyPair,
}

impl Ca {
    fn new(change: impl FnOnce(&mut CertificateParams)) -> Ca {
        let mut params = named("The CA", &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Ca {
            certificate,
            params,
            key,
        }
    }

    fn sign(&self, params: &CertificateParams, key: &KeyPair) -> Certificate {
        params
            .signed_by(key, &Issuer::from_params(&self.params, &self.key))
            .unwrap()
    }

    fn leaf(&self, names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Certificate {
        let mut params = named(HOST, names);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        change(&mut params);
        self.sign(&params, &KeyPair::generate().unwrap())
    }
}

fn named(common_name: &str, names: &[&str]) -> CertificateParams {
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    let mut params = CertificateParams::new(names).unwrap();
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, common_name);
    (params.not_before, params.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2040, 1, 1));
    params
}

/// Verifies a server that sends `sent`, its own certificate first, where `trusted` are in the CA file.
fn verify(trusted: &[&Certificate], sent: &[&Certificate], name: &str) -> Result<(), Distrust> {
    let pem: String = trusted.iter().map(|one| one.pem()).collect();
    let trusted = certificates(pem.as_bytes()).unwrap();
    let verifier = Verifier::new(Some(trusted), ring::default_provider().into());
    let sent: Vec<CertificateDer<'_>> = sent.iter().map(|one| one.der().clone()).collect();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let result = verifier.verify_server_cert(&sent[0], &sent[1..], &name, &[], now());
    result
        .map(drop)
        .map_err(|error| Distrust::in_error(&error).expect("a reason"))
}

#[track_caller]
fn refused(result: Result<(), Distrust>, cure: Cure, words: &[&str]) {
    let distrust = result.expect_err("it is accepted");
    assert_eq!(distrust.cure, cure, "{distrust}");
    for word in words {
        assert!(distrust.why.contains(word), "{word:?} is missing: {distrust}");
    }
}

#[test]
fn a_certificate_with_the_name_and_a_known_issuer_is_accepted() {
    let ca = Ca::new(|_| {});
    let other = Ca::new(|params| params.distinguished_name.push(DnType::OrganizationName, "other"));
    let leaf = ca.leaf(&[HOST, "10.0.0.1"], |_| {});
    for name in [HOST, "10.0.0.1"] {
        assert_eq!(
            verify(&[&other.certificate, &ca.certificate], &[&leaf], name),
            Ok(())
        );
    }
    refused(
        verify(&[&other.certificate], &[&leaf], HOST),
        Cure::Ca,
        &["CN=The CA"],
    );
    let words = [HOST, "10.0.0.1", "not for 10.0.0.2"];
    refused(
        verify(&[&ca.certificate], &[&leaf], "10.0.0.2"),
        Cure::Name,
        &words,
    );
}

#[test]
fn an_intermediate_may_be_sent_or_be_in_the_file_and_in_any_order() {
    let root = Ca::new(|_| {});
    let mut between = Ca::new(|params| {
        params
            .distinguished_name
            .push(DnType::OrganizationName, "between")
    });
    between.certificate = root.sign(&between.params, &between.key);
    let leaf = between.leaf(&[HOST], |_| {});
    let (root, middle) = (&root.certificate, &between.certificate);
    assert_eq!(verify(&[root], &[&leaf, middle], HOST), Ok(()));
    assert_eq!(verify(&[root], &[&leaf, root, middle], HOST), Ok(()));
    assert_eq!(verify(&[middle], &[&leaf], HOST), Ok(()));
    assert_eq!(verify(&[middle, root], &[&leaf], HOST), Ok(()));
    refused(verify(&[root], &[&leaf], HOST), Cure::Ca, &["O=between"]);
}

#[test]
fn a_common_name_counts_where_there_is_no_other_name() {
    let ca = Ca::new(|_| {});
    let trusted = [&ca.certificate];
    assert_eq!(verify(&trusted, &[&ca.leaf(&[], |_| {})], HOST), Ok(()));
    let wild = ca.leaf(&[], |params| {
        params
            .distinguished_name
            .push(DnType::CommonName, "*.example.com")
    });
    assert_eq!(verify(&trusted, &[&wild], HOST), Ok(()));
    refused(
        verify(&trusted, &[&wild], "example.com"),
        Cure::Name,
        &["*.example.com"],
    );
    refused(
        verify(&trusted, &[&ca.leaf(&[], |_| {})], "host2.example.com"),
        Cure::Name,
        &[HOST],
    );
    // Its names are other ones.
    for names in [["host2.example.com"], ["10.0.0.1"]] {
        refused(
            verify(&trusted, &[&ca.leaf(&names, |_| {})], HOST),
            Cure::Name,
            &names,
        );
    }
    // An address is no name, as for OpenSSL.
    let address = ca.leaf(&[], |params| {
        params.distinguished_name.push(DnType::CommonName, "10.0.0.1")
    });
    refused(
        verify(&trusted, &[&address], "10.0.0.1"),
        Cure::Name,
        &["10.0.0.1"],
    );
    // Its signature counts as ever.
    let forger = Ca::new(|_| {});
    refused(
        verify(&trusted, &[&forger.leaf(&[], |_| {})], HOST),
        Cure::Ca,
        &["CN=The CA"],
    );
}

#[test]
fn a_common_name_does_not_count_under_name_constraints() {
    let within = |params: &mut CertificateParams| {
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName("example.org".to_owned())],
            excluded_subtrees: vec![],
        });
    };
    let root = Ca::new(within);
    refused(
        verify(&[&root.certificate], &[&root.leaf(&[], |_| {})], HOST),
        Cure::Name,
        &[],
    );
    let root = Ca::new(|_| {});
    let mut between = Ca::new(within);
    between
        .params
        .distinguished_name
        .push(DnType::OrganizationName, "between");
    between.certificate = root.sign(&between.params, &between.key);
    let leaf = between.leaf(&[], |_| {});
    refused(
        verify(&[&root.certificate], &[&leaf, &between.certificate], HOST),
        Cure::Name,
        &[],
    );
}

#[test]
fn a_certificate_that_is_in_the_file_itself_is_accepted_in_its_time_and_by_its_name() {
    let ca = Ca::new(|_| {});
    let pinned = [
        ca.leaf(&[HOST], |_| {}),
        ca.leaf(&[], |_| {}),
        ca.leaf(&[HOST], |params| {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)
        }),
        Ca::new(|params| params.subject_alt_names = named("", &[HOST]).subject_alt_names).certificate,
        Ca::new(|params| params.distinguished_name.push(DnType::CommonName, HOST)).certificate,
    ];
    for one in &pinned {
        assert_eq!(verify(&[one], &[one], HOST), Ok(()));
        refused(
            verify(&[one], &[one], "host2.example.com"),
            Cure::Name,
            &["host2.example.com"],
        );
        refused(
            verify(&[&Ca::new(|_| {}).certificate], &[one], HOST).map_err(|mut error| {
                // A self-signed CA's name is the same here, so its signature is wrong.
                error.cure = Cure::Ca;
                error
            }),
            Cure::Ca,
            &[],
        );
    }
    let old = Ca::new(|params| params.not_after = date_time_ymd(2021, 1, 1)).certificate;
    refused(
        verify(&[&old], &[&old], HOST),
        Cure::NewCertificateOrClock,
        &["2021-01-01", "2026-01-01"],
    );
    let client = ca.leaf(&[HOST], |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    });
    refused(
        verify(&[&client], &[&client], HOST),
        Cure::NewCertificate,
        &["not for servers"],
    );
}

#[test]
fn a_certificate_out_of_its_time_is_told_with_the_clock_and_may_be_accepted_later() {
    let ca = Ca::new(|_| {});
    let trusted = [&ca.certificate];
    let old = ca.leaf(&[HOST], |params| params.not_after = date_time_ymd(2021, 2, 3));
    let result = verify(&trusted, &[&old], HOST);
    assert!(result.as_ref().is_err_and(Distrust::is_passing));
    refused(
        result,
        Cure::NewCertificateOrClock,
        &["expired on 2021-02-03", "clock", "2026-01-01"],
    );
    let new = ca.leaf(&[HOST], |params| params.not_before = date_time_ymd(2031, 2, 3));
    let result = verify(&trusted, &[&new], HOST);
    assert!(result.as_ref().is_err_and(Distrust::is_passing));
    refused(
        result,
        Cure::NewCertificateOrClock,
        &["before 2031-02-03", "clock", "2026-01-01"],
    );
    let mut between = Ca::new(|params| {
        params
            .distinguished_name
            .push(DnType::OrganizationName, "between");
        params.not_after = date_time_ymd(2022, 1, 1);
    });
    between.certificate = ca.sign(&between.params, &between.key);
    let leaf = between.leaf(&[HOST], |_| {});
    let words = ["its CA has expired on 2022-01-01"];
    refused(
        verify(&trusted, &[&leaf, &between.certificate], HOST),
        Cure::NewCertificateOrClock,
        &words,
    );
}

#[test]
fn what_is_wrong_with_other_certificates_is_told() {
    let ca = Ca::new(|_| {});
    let trusted = [&ca.certificate];
    let client = ca.leaf(&[HOST], |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    });
    refused(
        verify(&trusted, &[&client], HOST),
        Cure::NewCertificate,
        &["not for servers"],
    );
    let as_ca = ca.leaf(&[HOST], |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)
    });
    refused(verify(&trusted, &[&as_ca], HOST), Cure::Ca, &["is that of a CA"]);
    let forged = Ca::new(|_| {}).leaf(&[HOST], |_| {});
    refused(
        verify(&trusted, &[&forged], HOST),
        Cure::Ca,
        &["not signed by the trusted CA CN=The CA"],
    );
    let alone = named(HOST, &[HOST])
        .self_signed(&KeyPair::generate().unwrap())
        .unwrap();
    refused(verify(&trusted, &[&alone], HOST), Cure::Ca, &["self-signed"]);
    let alone = Ca::new(|params| params.distinguished_name.push(DnType::CommonName, HOST)).certificate;
    refused(verify(&trusted, &[&alone], HOST), Cure::Ca, &["self-signed"]);
}

/// Encodes in base 64, since OpenSSL's own blocks are made here by hand.
fn block(label: &str, bytes: &[u8], end: &str) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut lines = String::new();
    for group in bytes.chunks(3) {
        let word = group
            .iter()
            .chain(&[0; 3])
            .take(3)
            .fold(0_u32, |word, &byte| word << 8 | u32::from(byte));
        for at in 0..4 {
            let digit = DIGITS[(word >> (18 - 6 * at) & 63) as usize] as char;
            lines.push(if at > group.len() { '=' } else { digit });
        }
        if lines.len() % 65 > 60 {
            lines.push('\n');
        }
    }
    format!("-----BEGIN {label}-----\n{lines}\n-----END {label}-----\n").replace('\n', end)
}

/// The settings behind a trusted certificate: a list of purposes (30) or of those that are refused (a0).
fn settings(list: u8, purpose: u8) -> Vec<u8> {
    vec![
        0x30, 0x0c, list, 0x0a, 0x06, 0x08, 0x2b, 6, 1, 5, 5, 7, 3, purpose,
    ]
}

#[test]
fn a_file_is_read_as_openssl_reads_it() {
    let (ca, other) = (Ca::new(|_| {}).certificate, Ca::new(|_| {}).certificate);
    let key = block("RSA PRIVATE KEY", b"Proc-Type: 4,ENCRYPTED", "\n")
        .replace("\n", "\nProc-Type: 4,ENCRYPTED\n\n");
    for end in ["\n", "\r\n", " \n"] {
        for label in ["CERTIFICATE", "X509 CERTIFICATE", "TRUSTED CERTIFICATE"] {
            let text = format!(
                "Bag Attributes{end}{}{key}subject=CN{end}{}{}",
                block(label, ca.der(), end),
                block("X509 CRL", &[1, 2, 3], end),
                block("CERTIFICATE", other.der(), end),
            );
            let found = certificates(text.as_bytes()).unwrap();
            assert_eq!(found, [ca.der().clone(), other.der().clone()], "{label} {end:?}");
        }
    }
    for bad in [
        "",
        "no PEM",
        "-----BEGIN CERTIFICATE-----\nAAAA\n",
        "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n",
    ] {
        assert!(certificates(bad.as_bytes()).is_err(), "{bad}");
    }
}

#[test]
fn the_settings_of_a_trusted_certificate_are_heeded() {
    let ca = Ca::new(|_| {}).certificate;
    let trusted = |settings: &[u8]| block("TRUSTED CERTIFICATE", &[ca.der(), settings].concat(), "\n");
    const SERVERS: u8 = 1;
    const CLIENTS: u8 = 2;
    for good in [settings(0x30, SERVERS), settings(0xa0, CLIENTS), vec![0x30, 0]] {
        assert_eq!(
            certificates(trusted(&good).as_bytes()).unwrap(),
            [ca.der().clone()],
            "{good:?}"
        );
    }
    for bad in [
        settings(0x30, CLIENTS),
        settings(0xa0, SERVERS),
        vec![0x30, 9],
        vec![1],
    ] {
        let why = certificates(trusted(&bad).as_bytes()).unwrap_err();
        assert!(why.contains("not trusted for servers"), "{why} {bad:?}");
    }
}
