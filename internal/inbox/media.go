package inbox

import (
	"net/netip"
	"net/url"
	"strings"
)

// notPublic are the networks that a medium is never fetched from (IANA's special-purpose registries, and multicast).
var notPublic = prefixes(
	"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24",
	"192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3",
	"::/96", "64:ff9b::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "5f00::/16",
	"fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
)

func prefixes(texts ...string) []netip.Prefix {
	list := make([]netip.Prefix, len(texts))
	for i, text := range texts {
		list[i] = netip.MustParsePrefix(text)
	}
	return list
}

// PublicAddress says that an address is in no network of special purpose: not loopback, private, link-local, CGNAT, multicast, nor one of those
// that carry an IPv4 address inside and may lead there.
func PublicAddress(a netip.Addr) bool {
	if !a.IsValid() || a.Zone() != "" {
		return false
	}
	a = a.Unmap()
	for _, p := range notPublic {
		if p.Contains(a) {
			return false
		}
	}
	return true
}

// checkMediaURL refuses what can be told from the text alone. What a name stands for is asked when the medium is fetched, and again at each dial
// and redirect: that is for the channels.
func checkMediaURL(text string) error {
	if complaint := mediaComplaint(text); complaint != "" {
		return &InvalidError{Field: "mediaUrl", Code: "media_url_refused", Message: complaint}
	}
	return nil
}

func mediaComplaint(text string) string {
	if strings.HasPrefix(text, "/") {
		return "There is no such medium." // ours come with the channels
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Opaque != "":
		return "This is no URL."
	case u.Scheme != "https":
		return "A medium is fetched by https."
	case u.User != nil:
		return "A medium's URL has no user and no password."
	case !publicHost(u.Hostname()):
		return "A medium is fetched from a public address."
	}
	return ""
}

// publicHost is about the text alone.
func publicHost(host string) bool {
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if a, err := netip.ParseAddr(host); err == nil {
		return PublicAddress(a)
	}
	dot := strings.LastIndexByte(host, '.')
	last := host[dot+1:]
	switch {
	case dot <= 0 || last == "": // a name of the local network
		return false
	case last == "localhost" || last == "local" || last == "internal": // RFC 6761, RFC 6762, reserved by ICANN
		return false
	case last[0] >= '0' && last[0] <= '9': // 127.1, 0x7f.0x1, 0177.0.0.1: addresses to some resolvers (URL Standard, "ends in a number")
		return false
	}
	return !strings.ContainsFunc(host, func(c rune) bool { return c <= ' ' || c == '%' || c == '\\' || c == 0x7f })
}
