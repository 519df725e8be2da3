package inbox

import (
	"errors"
	"testing"
)

func TestMediaURL(t *testing.T) {
	t.Parallel()
	for url, fine := range map[string]bool{
		"https://example.com/a.png":              true,
		"HTTPS://Example.COM:8443/a?b=c#d":       true,
		"https://8.8.8.8/a":                      true,
		"https://[2606:4700::1111]/a":            true,
		"https://münchen.example/a":              true,
		"https://10.example.com/":                true,
		"http://example.com/a":                   false,
		"ftp://example.com/a":                    false,
		"file:///etc/passwd":                     false,
		"//example.com/a":                        false,
		"example.com/a":                          false,
		"https:example.com":                      false,
		"https:///a":                             false,
		"https://user@example.com/":              false,
		"https://user:pass@example.com/":         false,
		"https://example.com\\@127.0.0.1/":       false,
		"https://exa mple.com/":                  false,
		"https://localhost/":                     false,
		"https://a.localhost/":                   false,
		"https://LOCALHOST./":                    false,
		"https://postgres/":                      false,
		"https://metadata.google.internal/":      false,
		"https://printer.local/":                 false,
		"https://127.0.0.1/":                     false,
		"https://127.0.0.1./":                    false,
		"https://127.1/":                         false,
		"https://2130706433/":                    false,
		"https://0x7f.0.0.1/":                    false,
		"https://0177.0.0.1/":                    false,
		"https://0.0.0.0/":                       false,
		"https://10.1.2.3/":                      false,
		"https://100.64.0.1/":                    false,
		"https://100.127.255.255/":               false,
		"https://100.128.0.1/":                   true,
		"https://169.254.169.254/latest":         false,
		"https://172.16.0.1/":                    false,
		"https://172.32.0.1/":                    true,
		"https://192.168.1.1/":                   false,
		"https://198.18.0.1/":                    false,
		"https://224.0.0.1/":                     false,
		"https://255.255.255.255/":               false,
		"https://[::]/":                          false,
		"https://[::1]/":                         false,
		"https://[::ffff:10.0.0.1]/":             false,
		"https://[::ffff:8.8.8.8]/":              true,
		"https://[::127.0.0.1]/":                 false,
		"https://[64:ff9b::a00:1]/":              false,
		"https://[2002:a00:1::]/":                false,
		"https://[fc00::1]/":                     false,
		"https://[fe80::1]/":                     false,
		"https://[fe80::1%25eth0]/":              false,
		"https://[2606:4700::1111%25eth0]/":      false,
		"https://[ff02::1]/":                     false,
		"/api/v1/media/1":                        false,
		"/api/v1/media/../users":                 false,
		"https://example.com:99999999999999999/": true, // refused when dialled
	} {
		err := checkMediaURL(url)
		var invalid *InvalidError
		if (err == nil) != fine || err != nil && (!errors.As(err, &invalid) || invalid.Code != "media_url_refused") {
			t.Errorf("%s: %v", url, err)
		}
	}
}
