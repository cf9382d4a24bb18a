module git.schwanenlied.me/yawning/x448.git

go 1.26.0

require github.com/cloudflare/circl v1.6.3

require (
	golang.org/x/crypto v0.30.0 // indirect
	golang.org/x/sys v0.28.0 // indirect
)
