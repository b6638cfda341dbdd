//! Tokens of every algorithm, and the attacks on them.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair as _, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512, RsaKeyPair,
};
use ring::{hmac, signature};
use serde_json::{Value, json};

use super::signature::{Token, VerifyingKey};
use super::*;
use crate::config::JwtAlgorithm;
use crate::domain::access::{Permission, Target};

const NOW_S: u64 = 1_800_000_000;
const NOW_MS: u64 = NOW_S * 1_000;
const ALL: [JwtAlgorithm; 9] = [
    JwtAlgorithm::HS256,
    JwtAlgorithm::HS384,
    JwtAlgorithm::HS512,
    JwtAlgorithm::RS256,
    JwtAlgorithm::RS384,
    JwtAlgorithm::RS512,
    JwtAlgorithm::ES256,
    JwtAlgorithm::ES384,
    JwtAlgorithm::EdDSA,
];
/// Used for nothing but these tests.
const RSA: &[u8] = include_bytes!("../../../../fixtures/rsa-2048-for-tests.der");

fn base64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// The keys of an issuer.
struct Issuer {
    secret: [u8; 64],
    rsa: RsaKeyPair,
    p256: EcdsaKeyPair,
    p384: EcdsaKeyPair,
    ed: Ed25519KeyPair,
}

impl Issuer {
    fn new() -> Self {
        let random = SystemRandom::new();
        let ecdsa = |algorithm| {
            let key = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
            EcdsaKeyPair::from_pkcs8(algorithm, key.as_ref(), &random).unwrap()
        };
        let ed = Ed25519KeyPair::generate_pkcs8(&random).unwrap();
        Self {
            secret: [7; 64],
            rsa: RsaKeyPair::from_der(RSA).unwrap(),
            p256: ecdsa(&ECDSA_P256_SHA256_FIXED_SIGNING),
            p384: ecdsa(&ECDSA_P384_SHA384_FIXED_SIGNING),
            ed: Ed25519KeyPair::from_pkcs8(ed.as_ref()).unwrap(),
        }
    }

    fn key_set(&self) -> Value {
        let rsa = signature::RsaPublicKeyComponents::<Vec<u8>>::from(self.rsa.public_key());
        let point = |key: &EcdsaKeyPair, crv: &str, kid: &str| {
            let (x, y) =
                key.public_key().as_ref()[1..].split_at(key.public_key().as_ref().len() / 2);
            json!({ "kty": "EC", "crv": crv, "kid": kid, "x": base64(x), "y": base64(y) })
        };
        json!({ "keys": [
            { "kty": "oct", "kid": "secret", "k": base64(self.secret) },
            { "kty": "RSA", "kid": "rsa", "use": "sig", "n": base64(rsa.n), "e": base64(rsa.e) },
            point(&self.p256, "P-256", "p256"),
            point(&self.p384, "P-384", "p384"),
            { "kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": base64(self.ed.public_key()) },
            { "kty": "EC", "crv": "secp256k1", "kid": "unsupported", "x": "AA", "y": "AA" },
            { "kty": "RSA", "kid": "for encryption", "use": "enc", "n": "AQAB", "e": "AQAB" },
        ] })
    }

    fn kid(algorithm: JwtAlgorithm) -> &'static str {
        use JwtAlgorithm::{ES256, ES384, EdDSA, HS256, HS384, HS512, RS256, RS384, RS512};
        match algorithm {
            HS256 | HS384 | HS512 => "secret",
            RS256 | RS384 | RS512 => "rsa",
            ES256 => "p256",
            ES384 => "p384",
            EdDSA => "ed",
        }
    }

    fn sign(&self, algorithm: JwtAlgorithm, text: &str) -> Vec<u8> {
        use JwtAlgorithm::{ES256, ES384, EdDSA, HS256, HS384, HS512, RS256, RS384, RS512};
        let (random, text) = (SystemRandom::new(), text.as_bytes());
        let mac = |algorithm| {
            hmac::sign(&hmac::Key::new(algorithm, &self.secret), text).as_ref().to_vec()
        };
        let rsa = |padding| {
            let mut mark = vec![0; self.rsa.public().modulus_len()];
            self.rsa.sign(padding, &random, text, &mut mark).unwrap();
            mark
        };
        match algorithm {
            HS256 => mac(hmac::HMAC_SHA256),
            HS384 => mac(hmac::HMAC_SHA384),
            HS512 => mac(hmac::HMAC_SHA512),
            RS256 => rsa(&RSA_PKCS1_SHA256),
            RS384 => rsa(&RSA_PKCS1_SHA384),
            RS512 => rsa(&RSA_PKCS1_SHA512),
            ES256 => self.p256.sign(&random, text).unwrap().as_ref().to_vec(),
            ES384 => self.p384.sign(&random, text).unwrap().as_ref().to_vec(),
            EdDSA => self.ed.sign(text).as_ref().to_vec(),
        }
    }

    fn token(&self, algorithm: JwtAlgorithm, claims: &Value) -> String {
        let header = json!({ "alg": algorithm, "typ": "JWT", "kid": Self::kid(algorithm) });
        self.token_with(&header, algorithm, claims)
    }

    /// With any header.
    fn token_with(&self, header: &Value, algorithm: JwtAlgorithm, claims: &Value) -> String {
        let signed = format!("{}.{}", base64(header.to_string()), base64(claims.to_string()));
        let mark = self.sign(algorithm, &signed);
        format!("{signed}.{}", base64(mark))
    }

    fn verifier(&self, algorithms: &[JwtAlgorithm]) -> (Jwt, tempfile::NamedTempFile) {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(self.key_set().to_string().as_bytes()).unwrap();
        let config = JwtConfig {
            issuer: "https://id.example".into(),
            audience: vec!["postrider".into(), "other".into()],
            algorithms: algorithms.to_vec(),
            jwks_file: Some(file.path().to_owned()),
            roles: [
                ("ops".to_owned(), vec!["operate:stage/payment".to_owned(), "read".to_owned()]),
                ("clerk".to_owned(), vec!["submit".to_owned()]),
            ]
            .into(),
            ..JwtConfig::default()
        };
        (Jwt::new(&config).unwrap().unwrap(), file)
    }
}

fn claims() -> Value {
    json!({
        "iss": "https://id.example",
        "aud": "postrider",
        "sub": "ada",
        "name": "Ada Lovelace",
        "exp": NOW_S + 60,
        "roles": ["ops", "unknown"],
    })
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

async fn refused(jwt: &Jwt, token: &str) -> String {
    match jwt.verify(token, NOW_MS).await {
        Err(JwtError::Invalid(why)) => why,
        other => panic!("{other:?}: {token}"),
    }
}

#[tokio::test]
async fn tokens_of_every_algorithm_are_accepted() {
    let issuer = Issuer::new();
    let (jwt, _file) = issuer.verifier(&ALL);
    for algorithm in ALL {
        let principal = jwt.verify(&issuer.token(algorithm, &claims()), NOW_MS).await.unwrap();
        assert_eq!((principal.id(), principal.name()), ("jwt/ada", "Ada Lovelace"));
        assert!(principal.may(Permission::Operate, Target::Stage("payment")));
        assert!(!principal.may(Permission::Operate, Target::Everything));
        assert!(!principal.may(Permission::Submit, Target::Everything));
        // Without a `kid`, the key is found by its type.
        let header = json!({ "alg": algorithm });
        let token = issuer.token_with(&header, algorithm, &claims());
        assert!(jwt.verify(&token, NOW_MS).await.is_ok(), "{algorithm:?}");
    }
}

#[tokio::test]
async fn an_algorithm_that_is_not_configured_is_refused() {
    let issuer = Issuer::new();
    for configured in ALL {
        let (jwt, _file) = issuer.verifier(&[configured]);
        for algorithm in ALL.into_iter().filter(|one| *one != configured) {
            let why = refused(&jwt, &issuer.token(algorithm, &claims())).await;
            assert!(why.contains("is not accepted"), "{why}");
        }
    }
}

#[tokio::test]
async fn a_token_without_a_signature_is_refused() {
    let issuer = Issuer::new();
    let (jwt, _file) = issuer.verifier(&ALL);
    let payload = base64(claims().to_string());
    for name in ["none", "None", "NONE", "nOnE", ""] {
        let header = base64(json!({ "alg": name, "kid": "rsa" }).to_string());
        for token in [format!("{header}.{payload}."), format!("{header}.{payload}.AA")] {
            assert!(refused(&jwt, &token).await.contains("is not accepted"));
        }
        assert!(refused(&jwt, &format!("{header}.{payload}")).await.contains("three parts"));
    }
    for algorithm in ALL {
        let header = base64(json!({ "alg": algorithm }).to_string());
        let why = refused(&jwt, &format!("{header}.{payload}.")).await;
        assert_eq!(why, "its signature is wrong", "{algorithm:?}");
    }
}

#[tokio::test]
async fn a_public_key_is_no_shared_secret() {
    let issuer = Issuer::new();
    let (jwt, _file) = issuer.verifier(&ALL);
    let rsa = signature::RsaPublicKeyComponents::<Vec<u8>>::from(issuer.rsa.public_key());
    let set = issuer.key_set();
    let secrets: [Vec<u8>; 6] = [
        issuer.rsa.public_key().as_ref().to_vec(),
        rsa.n.clone(),
        base64(rsa.n).into_bytes(),
        set["keys"][1].to_string().into_bytes(),
        issuer.p256.public_key().as_ref().to_vec(),
        issuer.ed.public_key().as_ref().to_vec(),
    ];
    for kid in ["rsa", "p256", "ed"] {
        for secret in &secrets {
            let header = base64(json!({ "alg": "HS256", "kid": kid }).to_string());
            let signed = format!("{header}.{}", base64(claims().to_string()));
            let mark = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes());
            let why = refused(&jwt, &format!("{signed}.{}", base64(mark))).await;
            assert_eq!(why, "no key has its `kid` and fits its algorithm");
        }
    }
    // Nor is a key of one type one of another.
    let header = json!({ "alg": "RS256", "kid": "p256" });
    let token = issuer.token_with(&header, JwtAlgorithm::RS256, &claims());
    assert!(refused(&jwt, &token).await.contains("fits its algorithm"));
}

#[tokio::test]
async fn claims_of_others_and_of_other_times_are_refused() {
    let issuer = Issuer::new();
    let (jwt, _file) = issuer.verifier(&[JwtAlgorithm::EdDSA]);
    let later = NOW_S + 3_600;
    for (claims, expected) in [
        (without("iss"), "issuer"),
        (with("iss", json!("https://evil.example")), "issuer"),
        (with("iss", json!(["https://id.example"])), "issuer"),
        (without("aud"), "audience"),
        (with("aud", json!("shop")), "audience"),
        (with("aud", json!(["shop", 7])), "audience"),
        (with("aud", json!("postrider ")), "audience"),
        (without("sub"), "`sub`"),
        (with("sub", json!("")), "`sub`"),
        (with("sub", json!(42)), "`sub`"),
        (with("sub", json!("a".repeat(201))), "`sub`"),
        (without("exp"), "never expires"),
        (with("exp", json!(NOW_S - 31)), "expired"),
        (with("exp", json!("9999999999")), "`exp` is not a time"),
        (with("exp", json!(-1)), "`exp` is not a time"),
        (with("exp", json!(1e300)), "`exp` is not a time"),
        (with("exp", json!(null)), "`exp` is not a time"),
        (with("nbf", json!(later)), "not valid yet"),
        (with("nbf", json!("soon")), "`nbf` is not a time"),
        (with("iat", json!(later)), "not valid yet"),
        (json!([]), "not a JSON object"),
        (json!("text"), "not a JSON object"),
    ] {
        let why = refused(&jwt, &issuer.token(JwtAlgorithm::EdDSA, &claims)).await;
        assert!(why.contains(expected), "{claims}: {why}");
    }
    for accepted in [
        with("aud", json!(["shop", "other"])),
        with("exp", json!(NOW_S - 29)),
        with("exp", json!(NOW_S as f64 + 1.5)),
        with("nbf", json!(NOW_S + 29)),
        with("iat", json!(NOW_S - 5)),
        without("roles"),
    ] {
        let token = issuer.token(JwtAlgorithm::EdDSA, &accepted);
        assert!(jwt.verify(&token, NOW_MS).await.is_ok(), "{accepted}");
    }
}

#[tokio::test]
async fn a_verified_token_expires_all_the_same() {
    let issuer = Issuer::new();
    let (jwt, _file) = issuer.verifier(&[JwtAlgorithm::EdDSA]);
    let token = issuer.token(JwtAlgorithm::EdDSA, &claims());
    for _ in 0..2 {
        assert!(jwt.verify(&token, NOW_MS).await.is_ok());
    }
    let late = jwt.verify(&token, NOW_MS + 90_000).await;
    assert!(matches!(late, Err(JwtError::Invalid(why)) if why.contains("expired")));
}

#[tokio::test]
async fn malformed_and_changed_tokens_are_refused() {
    let issuer = Issuer::new();
    let (jwt, _file) = issuer.verifier(&ALL);
    let good = issuer.token(JwtAlgorithm::RS256, &claims());
    let parts: Vec<&str> = good.split('.').collect();
    let forged = base64(with("sub", json!("root")).to_string());
    let ed = JwtAlgorithm::EdDSA;
    let with_header = |header: Value| issuer.token_with(&header, ed, &claims());
    for token in [
        String::new(),
        ".".into(),
        "..".into(),
        "a.b.c".into(),
        format!("{good}.{good}"),
        format!("{}.{forged}.{}", parts[0], parts[2]),
        format!("{}.{}.{}", parts[0], parts[1], base64([0; 256])),
        format!("{}.{}.{}=", parts[0], parts[1], parts[2]),
        format!("{}.{}.{}", base64("{}"), parts[1], parts[2]),
        format!("{}.{}.{}", base64("{\"alg\":\"RS256\",\"alg\":\"none\"}"), parts[1], parts[2]),
        with_header(json!({ "alg": ["EdDSA"] })),
        with_header(json!({ "alg": "EdDSA", "crit": ["exp"] })),
        with_header(json!({ "alg": "EdDSA", "typ": "logout+jwt" })),
        with_header(json!({ "alg": "EdDSA", "kid": 7 })),
        with_header(json!({ "alg": "EdDSA", "kid": "k".repeat(300) })),
        with_header(json!({ "alg": "EdDSA", "kid": "unknown" })),
        with_header(json!({ "alg": "EdDSA", "kid": "../../dev/null" })),
    ] {
        refused(&jwt, &token).await;
    }
    // Keys that the token brings along mean nothing.
    let other = Issuer::new();
    let own = other.key_set()["keys"][4].clone();
    let header = json!({ "alg": "EdDSA", "jwk": own, "jku": "https://evil.example/keys" });
    let why = refused(&jwt, &other.token_with(&header, ed, &claims())).await;
    assert_eq!(why, "its signature is wrong");
}

#[tokio::test]
async fn roles_are_read_from_texts_lists_and_objects() {
    let issuer = Issuer::new();
    let (jwt, _file) = issuer.verifier(&[JwtAlgorithm::EdDSA]);
    for (roles, submit) in [
        (json!("ops clerk"), true),
        (json!(["clerk"]), true),
        (json!(["ops clerk"]), false),
        (json!({ "clerk": true }), false),
        (json!(null), false),
    ] {
        let token = issuer.token(JwtAlgorithm::EdDSA, &with("roles", roles.clone()));
        let principal = jwt.verify(&token, NOW_MS).await.unwrap();
        assert_eq!(principal.may(Permission::Submit, Target::Everything), submit, "{roles}");
    }
}

#[tokio::test]
async fn keys_that_cannot_be_used_are_refused() {
    let short = json!({ "keys": [{ "kty": "oct", "k": base64([1; 31]) }] });
    let wrong = json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "alg": "RS256", "x": "AA" }] });
    for set in [json!({}), json!([]), json!({ "keys": [] }), short, wrong, json!("keys")] {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(set.to_string().as_bytes()).unwrap();
        let config = JwtConfig {
            issuer: "a".into(),
            jwks_file: Some(file.path().to_owned()),
            ..JwtConfig::default()
        };
        let error = Jwt::new(&config).err().unwrap();
        assert!(error.starts_with("auth.jwt.jwks_file: "), "{set}: {error}");
    }
}

#[tokio::test]
async fn a_new_key_is_found_and_an_old_one_no_longer_counts() {
    let (old, new) = (Issuer::new(), Issuer::new());
    let (mut jwt, file) = old.verifier(&[JwtAlgorithm::ES256]);
    jwt.keys.set_min_interval(Duration::ZERO);
    let of_old = old.token(JwtAlgorithm::ES256, &claims());
    assert!(jwt.verify(&of_old, NOW_MS).await.is_ok());
    let mut set = new.key_set();
    for key in set["keys"].as_array_mut().unwrap() {
        key["kid"] = json!(format!("new-{}", key["kid"].as_str().unwrap()));
    }
    std::fs::write(file.path(), set.to_string()).unwrap();
    let header = json!({ "alg": "ES256", "kid": "new-p256" });
    let of_new = new.token_with(&header, JwtAlgorithm::ES256, &claims());
    assert!(jwt.verify(&of_new, NOW_MS).await.is_ok(), "an unknown key causes a read");
    // Although it was verified a moment ago.
    assert!(refused(&jwt, &of_old).await.contains("no key has its `kid`"));
}

#[tokio::test]
async fn unknown_keys_cause_few_reads() {
    let issuer = Issuer::new();
    let (jwt, file) = issuer.verifier(&[JwtAlgorithm::ES256]);
    let header = json!({ "alg": "ES256", "kid": "unknown" });
    let token = issuer.token_with(&header, JwtAlgorithm::ES256, &claims());
    refused(&jwt, &token).await;
    // It was read for the first one. Were it read again, it would have the key.
    let mut set = issuer.key_set();
    set["keys"][2]["kid"] = json!("unknown");
    std::fs::write(file.path(), set.to_string()).unwrap();
    refused(&jwt, &token).await;
}

/// RFC 7515, A.1 to A.3, and RFC 8037, A.4.
#[test]
fn signatures_of_the_standards_are_verified() {
    const CLAIMS: &str = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).unwrap();
    let rsa = VerifyingKey::Rsa {
        n: decode(
            "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ",
        ),
        e: decode("AQAB"),
    };
    let point = [
        &[4][..],
        &decode("f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU"),
        &decode("x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"),
    ];
    let secret =
        "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
    let cases = [
        (
            VerifyingKey::Secret(decode(secret)),
            "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9",
            CLAIMS,
            "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
        ),
        (
            rsa,
            "eyJhbGciOiJSUzI1NiJ9",
            CLAIMS,
            "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
        ),
        (
            VerifyingKey::P256(point.concat()),
            "eyJhbGciOiJFUzI1NiJ9",
            CLAIMS,
            "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
        ),
        (
            VerifyingKey::Ed25519(decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo")),
            "eyJhbGciOiJFZERTQSJ9",
            "RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc",
            "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
        ),
    ];
    for (key, header, payload, mark) in &cases {
        let text = format!("{header}.{payload}.{mark}");
        assert!(Token::parse(&text).unwrap().is_signed_by(key), "{header}");
        for (other, ..) in cases.iter().filter(|(other, ..)| other != key) {
            assert!(!Token::parse(&text).unwrap().is_signed_by(other), "{header}");
        }
        let changed = format!("{header}.{}.{mark}", base64("{}"));
        assert!(!Token::parse(&changed).unwrap().is_signed_by(key), "{header}");
    }
}
