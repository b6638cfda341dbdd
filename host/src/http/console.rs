//! `/console`: the web console, as files inside of the program. They contain no data: everything that
//! the console shows, it asks the API for, so they are open to everyone.
//!
//! The files are made from `host/console/src` by `cargo xtask console` and committed. The name of an asset
//! contains the beginning of its hash, so it never changes and is cached for good; the page names the assets
//! and is asked for each time. The page is the same for every view, whose address only the console
//! reads. Its links are relative, so it works below any prefix, also one that a proxy removes.

use std::io::Write as _;
use std::sync::LazyLock;

use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest as _, Sha256};

use super::browsers::ConsoleFile;
use super::prefix::original_path;
use super::problem::{Answer, Problem};

/// Where the console is.
pub(super) const PATH: &str = "/console";
/// Where its files are, below that.
const ASSETS: &str = "assets/";
/// Characters of the hash in the name of an asset.
const HASH_LEN: usize = 16;

/// The page, with places for the names of the assets (`{console.js}`) and for the way to the
/// console's folder (`{root}`).
const PAGE: &str = include_str!("../../console/dist/index.html");

/// A file that the page refers to.
struct Source {
    /// Its name in the page, without its ending.
    stem: &'static str,
    ending: &'static str,
    media_type: &'static str,
    bytes: &'static [u8],
}

const SOURCES: [Source; 3] = [
    Source {
        stem: "console",
        ending: "js",
        media_type: "text/javascript; charset=utf-8",
        bytes: include_bytes!("../../console/dist/console.js"),
    },
    Source {
        stem: "console",
        ending: "css",
        media_type: "text/css; charset=utf-8",
        bytes: include_bytes!("../../console/dist/console.css"),
    },
    Source {
        stem: "icon",
        ending: "svg",
        media_type: "image/svg+xml",
        bytes: include_bytes!("../../console/dist/icon.svg"),
    },
];

/// An asset as it is served.
struct Asset {
    /// Its name, with its hash.
    name: String,
    /// Its place in the page.
    placeholder: String,
    media_type: &'static str,
    plain: Bytes,
    zipped: Bytes,
}

/// Made when the console is first asked for: compressing takes some milliseconds.
static FILES: LazyLock<Vec<Asset>> = LazyLock::new(|| SOURCES.iter().map(Asset::of).collect());

impl Asset {
    fn of(source: &Source) -> Self {
        let Source { stem, ending, media_type, bytes } = source;
        let hash = hash_of(bytes);
        Self {
            name: format!("{stem}-{}.{ending}", &hash[..HASH_LEN]),
            placeholder: format!("{{{stem}.{ending}}}"),
            media_type,
            plain: Bytes::from_static(bytes),
            zipped: zipped(bytes),
        }
    }
}

fn hash_of(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}

fn zipped(bytes: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    let written = encoder.write_all(bytes).and_then(|()| encoder.finish());
    written.expect("memory takes every byte").into()
}

/// Leads to the console's folder. The way is relative, for prefixes that the host does not know.
pub(super) async fn enter() -> Response {
    (StatusCode::PERMANENT_REDIRECT, ConsoleFile, [(header::LOCATION, "console/")]).into_response()
}

/// Serves an asset, or the page for any other path.
pub(super) async fn file(request: Request) -> Answer<Response> {
    let path = request.uri().path();
    let below = path.strip_prefix(PATH).unwrap_or_default().trim_start_matches('/');
    match below.strip_prefix(ASSETS) {
        Some(name) => match FILES.iter().find(|file| file.name == name) {
            Some(file) => Ok(asset(file, request.headers())),
            // Of another version: the page that named it was loaded before the host was replaced.
            None => Err(Problem::not_found(format!("no file {}", original_path(&request)))),
        },
        None => Ok(page(below, request.headers())),
    }
}

fn asset(file: &Asset, headers: &HeaderMap) -> Response {
    let shared = [
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
        (header::CONTENT_TYPE, file.media_type),
        (header::VARY, "accept-encoding"),
    ];
    if accepts_gzip(headers) {
        let encoding = [(header::CONTENT_ENCODING, "gzip")];
        return (ConsoleFile, shared, encoding, file.zipped.clone()).into_response();
    }
    (ConsoleFile, shared, file.plain.clone()).into_response()
}

/// The page for a path below the console's folder.
fn page(below: &str, headers: &HeaderMap) -> Response {
    let depth = below.matches('/').count();
    let root = if depth == 0 { "./".to_owned() } else { "../".repeat(depth) };
    let named = FILES.iter().fold(PAGE.replace("{root}", &root), |page, file| {
        page.replace(&file.placeholder, &file.name)
    });
    let tag = format!("\"{}\"", &hash_of(named.as_bytes())[..HASH_LEN]);
    let shared = [(header::CACHE_CONTROL, "no-cache".to_owned()), (header::ETAG, tag.clone())];
    let known = headers.get(header::IF_NONE_MATCH).and_then(|value| value.to_str().ok());
    if known.is_some_and(|known| known.split(',').any(|one| one.trim() == tag)) {
        return (StatusCode::NOT_MODIFIED, ConsoleFile, shared).into_response();
    }
    let media_type = [(header::CONTENT_TYPE, "text/html; charset=utf-8")];
    (ConsoleFile, shared, media_type, named).into_response()
}

/// Whether a client takes compressed bodies.
fn accepts_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING).iter();
    let mut all = values.filter_map(|value| value.to_str().ok()).flat_map(|all| all.split(','));
    all.any(|one| {
        let (name, quality) = one.split_once(';').unwrap_or((one, ""));
        name.trim() == "gzip" && !matches!(quality.trim(), "q=0" | "q=0.0" | "q=0.00" | "q=0.000")
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::Path;

    use axum::body::{Body, to_bytes};
    use axum::http::HeaderName;

    use super::*;

    /// Largest script and style, compressed.
    const BUNDLE_MAX_BYTES: usize = 100_000;

    async fn served(path: &str, headers: &[(HeaderName, &str)]) -> (StatusCode, HeaderMap, String) {
        let mut request = Request::builder().uri(path);
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let response = file(request.body(Body::empty()).unwrap()).await.into_response();
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, usize::MAX).await.unwrap();
        (parts.status, parts.headers, String::from_utf8_lossy(&body).into_owned())
    }

    #[tokio::test]
    async fn the_page_refers_to_the_assets_from_every_depth() {
        for (path, root) in [
            ("/console/", "./"),
            ("/console/orders", "./"),
            ("/console/orders/1", "../"),
            ("/console/orders/a%2Fb", "../"),
            ("/console/orders/a/b", "../../"),
        ] {
            let (status, headers, page) = served(path, &[]).await;
            assert_eq!(status, StatusCode::OK, "{path}");
            assert_eq!(headers[header::CACHE_CONTROL], "no-cache", "{path}");
            assert!(page.contains(&format!("src=\"{root}assets/console-")), "{path}: {page}");
            assert!(!page.contains('{'), "{path}: {page}");
            for asset in FILES.iter() {
                assert!(page.contains(&asset.name), "{path}: {page}");
            }
        }
    }

    #[tokio::test]
    async fn the_page_is_sent_once_to_a_client_that_keeps_it() {
        let (_, headers, _) = served("/console/orders", &[]).await;
        let tag = headers[header::ETAG].to_str().unwrap();
        let again = served("/console/orders", &[(header::IF_NONE_MATCH, tag)]).await;
        assert_eq!((again.0, &*again.2), (StatusCode::NOT_MODIFIED, ""));
        let other = served("/console/orders/1", &[(header::IF_NONE_MATCH, tag)]).await;
        assert_eq!(other.0, StatusCode::OK);
    }

    #[tokio::test]
    async fn assets_are_cached_for_good_and_compressed() {
        for asset in FILES.iter() {
            let path = format!("{PATH}/{ASSETS}{}", asset.name);
            let (status, headers, _) = served(&path, &[]).await;
            assert_eq!(status, StatusCode::OK, "{path}");
            assert_eq!(headers[header::CONTENT_TYPE], asset.media_type, "{path}");
            assert!(headers[header::CACHE_CONTROL].to_str().unwrap().contains("immutable"));
            assert!(!headers.contains_key(header::CONTENT_ENCODING));
            let accepts = [(header::ACCEPT_ENCODING, "br, gzip;q=0.8")];
            let (_, headers, _) = served(&path, &accepts).await;
            assert_eq!(headers[header::CONTENT_ENCODING], "gzip");
            let refuses = [(header::ACCEPT_ENCODING, "gzip;q=0")];
            let (_, headers, _) = served(&path, &refuses).await;
            assert!(!headers.contains_key(header::CONTENT_ENCODING));
        }
        let (status, _, _) = served("/console/assets/console-0000000000000000.js", &[]).await;
        assert_eq!(status, StatusCode::NOT_FOUND);
    }

    #[test]
    fn the_bundle_is_small() {
        let bytes: usize = FILES.iter().map(|file| file.zipped.len()).sum();
        assert!(bytes <= BUNDLE_MAX_BYTES, "{bytes} bytes");
    }

    #[test]
    fn the_page_has_neither_scripts_nor_styles_of_its_own() {
        assert_eq!(PAGE.matches("<script").count(), PAGE.matches("<script src=").count());
        assert!(!PAGE.contains("<style") && !PAGE.contains("style=") && !PAGE.contains("http"));
    }

    /// `build.mjs` writes a hash of its sources into the page.
    #[test]
    fn the_files_were_made_from_the_sources() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("console");
        let mut sources = BTreeMap::new();
        for name in ["build.mjs", "package-lock.json", "package.json", "tsconfig.json"] {
            sources.insert(name.to_owned(), fs::read(root.join(name)).unwrap());
        }
        collect(&root, "src", &mut sources);
        let mut hash = Sha256::new();
        for (path, bytes) in &sources {
            hash.update(format!("{path}\0{}\0", bytes.len()));
            hash.update(bytes);
        }
        let meta = format!("<meta name=\"sources\" content=\"{:x}\" />", hash.finalize());
        assert!(PAGE.contains(&meta), "the console is stale: run `cargo xtask console`");
    }

    /// The files of a folder by their paths. The types of the API leave no trace in the script.
    fn collect(root: &Path, folder: &str, into: &mut BTreeMap<String, Vec<u8>>) {
        for entry in fs::read_dir(root.join(folder)).unwrap() {
            let entry = entry.unwrap();
            let path = format!("{folder}/{}", entry.file_name().to_str().unwrap());
            if entry.file_type().unwrap().is_dir() {
                collect(root, &path, into);
            } else if path != "src/api/schema.d.ts" {
                into.insert(path, fs::read(entry.path()).unwrap());
            }
        }
    }
}
