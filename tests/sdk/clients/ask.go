// URL CA [CERTIFICATE KEY]: asks with Go's crypto/tls, and prints the status and what TLS it was.
package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
)

func main() {
	if err := ask(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func ask(args []string) error {
	roots, err := os.ReadFile(args[1])
	if err != nil {
		return err
	}
	config := &tls.Config{RootCAs: x509.NewCertPool()}
	if !config.RootCAs.AppendCertsFromPEM(roots) {
		return fmt.Errorf("no roots in %s", args[1])
	}
	if len(args) > 2 {
		pair, err := tls.LoadX509KeyPair(args[2], args[3])
		if err != nil {
			return err
		}
		config.Certificates = []tls.Certificate{pair}
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}}
	answer, err := client.Get(args[0])
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	version := map[uint16]string{tls.VersionTLS12: "TLSv1.2", tls.VersionTLS13: "TLSv1.3"}[answer.TLS.Version]
	fmt.Println(answer.StatusCode, version)
	return nil
}
