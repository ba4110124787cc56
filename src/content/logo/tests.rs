//! Against a real HTTP server on loopback, which counts who comes.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use axum::{
    Router,
    body::Body,
    extract::State,
    http::{StatusCode, Uri, header},
    response::{IntoResponse, Response},
};

use super::*;

const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2));

/// A server with a page for each kind of answer.
struct Server {
    port: u16,
    visits: Arc<AtomicUsize>,
}

fn png(width: u32, height: u32, pixel: [u8; 4]) -> Vec<u8> {
    let image = image::RgbaImage::from_pixel(width, height, image::Rgba(pixel));
    let mut file = Cursor::new(Vec::new());
    image.write_to(&mut file, ImageFormat::Png).unwrap();
    file.into_inner()
}

impl Server {
    async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("0.0.0.0:0").await.unwrap();
        let (port, visits) = (listener.local_addr().unwrap().port(), Arc::<AtomicUsize>::default());
        let router = Router::new().fallback(answer).with_state((port, visits.clone()));
        tokio::spawn(axum::serve(listener, router).into_future());
        Self { port, visits }
    }

    fn url(&self, host: &str, path: &str) -> String {
        format!("http://{host}:{}{path}", self.port)
    }

    fn visits(&self) -> usize {
        self.visits.swap(0, Ordering::SeqCst)
    }
}

async fn answer(State((port, visits)): State<(u16, Arc<AtomicUsize>)>, uri: Uri) -> Response {
    visits.fetch_add(1, Ordering::SeqCst);
    let to = |host: &str, path: &str| {
        let url = format!("http://{host}:{port}{path}");
        (StatusCode::FOUND, [(header::LOCATION, url)]).into_response()
    };
    match uri.path() {
        "/logo.png" => png(300, 100, [0x20, 0x60, 0x40, 255]).into_response(),
        "/to-logo" => to("cdn.logos.test", "/logo.png"),
        "/to-private" => to("inside.test", "/logo.png"),
        "/to-literal" => to("127.0.0.1", "/logo.png"),
        "/to-rebound" => to("rebound.logos.test", "/logo.png"),
        "/loop" => to("cdn.logos.test", "/loop"),
        "/huge" => vec![0_u8; MOST_BYTES + 1].into_response(),
        "/endless" => Body::from_stream(futures_util::stream::repeat_with(|| {
            Ok::<_, std::io::Error>(vec![0_u8; 1 << 16])
        }))
        .into_response(),
        "/silent" => std::future::pending().await,
        "/bomb" => png(MOST_PIXELS + 1, 1, [0; 4]).into_response(),
        "/svg" => "<svg xmlns='http://www.w3.org/2000/svg'/>".into_response(),
        "/truncated" => png(300, 100, [9, 9, 9, 255])[..80].to_vec().into_response(),
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

fn logos(hosts: &[&str], permits: fn(IpAddr) -> bool) -> Logos {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let names = [
        ("cdn.logos.test", vec![HERE]),
        ("inside.test", vec![HERE]),
        ("rebound.logos.test", vec![HERE, ELSEWHERE]),
    ];
    let names: BTreeMap<_, _> = names.map(|(name, at)| (name.to_owned(), at)).into();
    let hosts: Vec<_> = hosts.iter().map(|host| (*host).to_owned()).collect();
    Logos::new(&hosts, Network::of_test(permits, names)).unwrap()
}

fn only_here(address: IpAddr) -> bool {
    address == HERE
}

#[tokio::test]
async fn a_logo_is_fetched_from_a_host_on_the_list_and_from_no_other() {
    let server = Server::start().await;
    let allowed = logos(&["*.logos.test"], only_here);
    let logo = allowed
        .try_fetch(&server.url("cdn.logos.test", "/logo.png"))
        .await
        .unwrap();
    assert_eq!((logo.pixels().width(), logo.pixels().height()), (300, 100));
    assert!(
        allowed
            .try_fetch(&server.url("CDN.Logos.Test", "/to-logo"))
            .await
            .is_ok()
    );
    assert_eq!(server.visits(), 3);

    let none = logos(&[], only_here);
    for logos in [
        &none,
        &logos(&["logos.test", "*.cdn.logos.test", "ogos.test"], only_here),
    ] {
        let refused = logos
            .try_fetch(&server.url("cdn.logos.test", "/logo.png"))
            .await
            .unwrap_err();
        assert_eq!(refused.to_string(), "the host cdn.logos.test is not on the list");
        assert!(logos.fetch(&server.url("cdn.logos.test", "/logo.png")).await.is_none());
    }
    assert_eq!(server.visits(), 0, "nobody was asked");
}

#[tokio::test]
async fn no_spelling_of_a_url_leads_off_the_list() {
    let server = Server::start().await;
    let logos = logos(&["cdn.logos.test", "localhost"], only_here);
    let port = server.port;
    for url in [
        format!("http://127.0.0.1:{port}/logo.png"),
        format!("http://2130706433:{port}/logo.png"),
        format!("http://0x7f.1:{port}/logo.png"),
        format!("http://[::1]:{port}/logo.png"),
        format!("http://[::ffff:127.0.0.1]:{port}/logo.png"),
        format!("http://cdn.logos.test@127.0.0.1:{port}/logo.png"),
        format!("http://127.0.0.1:{port}#cdn.logos.test"),
        format!("http://cdn.logos.test.evil.test:{port}/logo.png"),
        format!("http://evil.test\\@cdn.logos.test:{port}/logo.png"),
        "file:///etc/passwd".to_owned(),
        "ftp://cdn.logos.test/logo.png".to_owned(),
        "data:image/png;base64,AAAA".to_owned(),
        "//cdn.logos.test/logo.png".to_owned(),
        "javascript:alert(1)".to_owned(),
        "http://".to_owned(),
        String::new(),
        "가".repeat(100_000),
        "\0\u{202e}".to_owned(),
    ] {
        let refused = logos.try_fetch(&url).await.unwrap_err();
        assert!(
            matches!(refused, NoLogo::NotAllowed(_) | NoLogo::Url(_)),
            "{url:.60}: {refused}"
        );
    }
    assert_eq!(server.visits(), 0, "nobody was asked");
}

#[tokio::test]
async fn neither_dns_nor_a_redirect_leads_into_a_private_network() {
    let server = Server::start().await;
    // `localhost` by the system's own resolver, the others as DNS could answer.
    let public = logos(&["cdn.logos.test", "localhost"], is_public);
    for host in ["cdn.logos.test", "localhost"] {
        let refused = public.try_fetch(&server.url(host, "/logo.png")).await.unwrap_err();
        assert!(refused.to_string().contains("which is not public"), "{refused}");
    }
    assert_eq!(server.visits(), 0, "nobody was asked");

    let logos = logos(&["*.logos.test"], only_here);
    for (path, why) in [
        ("/to-private", "the host inside.test is not on the list"),
        ("/to-literal", "an address instead of a host's name is not allowed"),
        (
            "/to-rebound",
            "the host rebound.logos.test is at 127.0.0.2, which is not public",
        ),
    ] {
        let refused = logos.try_fetch(&server.url("cdn.logos.test", path)).await.unwrap_err();
        assert!(refused.to_string().contains(why), "{path}: {refused}");
        assert_eq!(server.visits(), 1, "{path}: only the redirect was asked for");
    }
    let refused = logos
        .try_fetch(&server.url("cdn.logos.test", "/loop"))
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("too many redirects"), "{refused}");
    assert_eq!(server.visits(), MOST_REDIRECTS + 1);
}

#[tokio::test]
async fn what_is_too_large_too_slow_or_no_image_is_left_out() {
    let server = Server::start().await;
    let logos = logos(&["cdn.logos.test"], only_here);
    let refused = async |path: &str| {
        let refused = logos.try_fetch(&server.url("cdn.logos.test", path)).await;
        refused.unwrap_err().to_string()
    };
    for path in ["/huge", "/endless"] {
        assert_eq!(refused(path).await, "it has more than 1048576 bytes", "{path}");
    }
    assert_eq!(refused("/nothing").await, "the host answers 404 Not Found");
    for path in ["/bomb", "/svg", "/truncated"] {
        let why = refused(path).await;
        assert!(why.starts_with("it is no image that can be drawn: "), "{path}: {why}");
    }
    let began = std::time::Instant::now();
    let why = refused("/silent").await;
    assert!(why.contains("timed out"), "{why}");
    assert!(began.elapsed() < 2 * FETCH_TIMEOUT);
}

#[tokio::test]
async fn the_product_asks_the_usual_ports_alone() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let logos = Logos::new(&["cdn.example.com".to_owned()], Network::public()).unwrap();
    let refused = logos
        .try_fetch("https://cdn.example.com:8443/logo.png")
        .await
        .unwrap_err();
    assert_eq!(refused.to_string(), "the port 8443 is not allowed");
}

#[test]
fn a_host_is_a_name_and_nothing_else() {
    for good in ["cdn.example.com", "*.example.com", "카페.example", "localhost"] {
        assert!(Host::parse(good).is_ok(), "{good}");
    }
    for bad in [
        "",
        "*",
        "*.",
        "a.*.b",
        "10.0.0.1",
        "[::1]",
        "http://a.b",
        "a.b:80",
        "a b",
        "a/b",
    ] {
        assert!(Host::parse(bad).is_err(), "{bad}");
    }
    let below = Host::parse("*.example.com").unwrap();
    for (name, allowed) in [
        ("a.example.com", true),
        ("a.b.example.com", true),
        ("a.example.com.", true),
        ("example.com", false),
        (".example.com", false),
        ("aexample.com", false),
        ("a.example.com.evil", false),
    ] {
        assert_eq!(below.allows(name), allowed, "{name}");
    }
}

#[test]
fn only_addresses_of_the_public_internet_are_public() {
    for public in [
        "8.8.8.8",
        "1.1.1.1",
        "172.15.255.255",
        "172.32.0.1",
        "223.255.255.255",
        "2606:4700::1111",
        "2a00::1",
    ] {
        assert!(is_public(public.parse().unwrap()), "{public}");
    }
    for private in [
        "0.0.0.0",
        "10.1.2.3",
        "100.64.0.1",
        "127.0.0.1",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.2.1",
        "192.168.0.1",
        "198.19.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:8.8.8.8",
        "::ffff:10.0.0.1",
        "64:ff9b::a00:1",
        "fc00::1",
        "fd12::1",
        "fe80::1",
        "ff02::1",
        "2001::1",
        "2001:db8::1",
        "2002:a00:1::",
        "fec0::1",
        "3fff::1",
    ] {
        assert!(!is_public(private.parse().unwrap()), "{private}");
    }
}

#[test]
fn a_logo_is_made_small_and_set_on_what_it_stands_out_on() {
    let dark = Logo::read(&png(2000, 1000, [10, 20, 30, 255])).unwrap();
    assert_eq!((dark.pixels().width(), dark.pixels().height()), (320, 160));
    assert_eq!(dark.tile(), Rgb::WHITE);
    let white = Logo::read(&png(40, 40, [250, 250, 250, 200])).unwrap();
    assert!(white.tile().contrast(Rgb::WHITE) > 10.0);
    let [width, height] = white.fit(100.0, 20.0);
    assert!((width - 20.0).abs() < 0.01 && (height - 20.0).abs() < 0.01);
    let clear = Logo::read(&png(4000, 1, [255, 255, 255, 0])).unwrap();
    assert_eq!((clear.pixels().height(), clear.tile()), (1, Rgb::WHITE));
}

#[test]
fn a_jpeg_whose_decoding_would_take_too_much_is_refused_before_it_begins() {
    let jpeg = |side: u32| {
        let image = image::RgbImage::from_pixel(side, side, image::Rgb([10, 20, 30]));
        let mut file = Cursor::new(Vec::new());
        image.write_to(&mut file, ImageFormat::Jpeg).unwrap();
        file.into_inner()
    };
    let logo = Logo::read(&jpeg(2000)).unwrap();
    assert_eq!((logo.pixels().width(), logo.pixels().height()), (160, 160));

    let baseline = jpeg(4096);
    assert!(baseline.len() < MOST_BYTES, "it may come: {}", baseline.len());
    let mut progressive = baseline.clone();
    let frame = progressive
        .windows(2)
        .position(|marker| marker == [0xff, 0xc0])
        .unwrap();
    progressive[frame + 1] = 0xc2;
    for file in [baseline, progressive] {
        let why = Logo::read(&file).unwrap_err().to_string();
        let expected = "it is no image that can be drawn: a JPEG of 4096 x 4096 is too large";
        assert_eq!(why, expected);
    }
}
