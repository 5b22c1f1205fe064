use std::fs;
use std::os::unix::fs::PermissionsExt;

use super::*;

#[tokio::test]
async fn a_socket_is_its_owners_and_goes_with_the_program() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("llm.sock");
    let listen = DialListen::Unix(path.clone());
    let bound = Bound::bind(&listen).await.unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    let error = Bound::bind(&listen).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
    drop(bound);
    assert!(!path.exists());
    // What a crash leaves behind is replaced, what is no socket is not.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    drop(Bound::bind(&listen).await.unwrap());
    fs::write(&path, "mine").unwrap();
    assert!(Bound::bind(&listen).await.unwrap_err().to_string().contains("no socket"));
    assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
}

#[tokio::test]
async fn nothing_listens_where_others_could_connect() {
    for address in ["0.0.0.0:0", "[::]:0"] {
        assert!(Bound::bind(&DialListen::Loopback(address.parse().unwrap())).await.is_err());
    }
    let bound = Bound::bind(&DialListen::Loopback("127.0.0.1:0".parse().unwrap())).await.unwrap();
    assert!(matches!(bound.endpoint(), Endpoint::Loopback(address) if address.port() != 0));
}
