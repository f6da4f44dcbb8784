// Verifies a Sekisho audit export with the transparency-log packages of the Go project, which know nothing of Sekisho.
//
//	GO111MODULE=off GOPATH=/usr/share/gocode go build -o verify-go main.go
//	./verify-go FOLDER 'name+hash+key'
//	./verify-go -witness 'name+hash+key' FOLDER 'name+hash+key'
//	./verify-go -each-byte FOLDER 'name+hash+key'
//
// The key is the log's first: later ones are believed as far as data/trail.periods hands the log over to them. The
// second also asks that a witness cosigned the head (C2SP tlog-cosignature; may be repeated). The third flips one bit
// in every byte of the log's files in turn, in memory, and fails when one of them still verifies. (Debian: golang-go, golang-golang-x-mod-dev.) Exits with 0 only when every check holds.
package main

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const tileHeight = 8
const tileWidth = 1 << tileHeight

// readFile is os.ReadFile, but for the one file that eachByte has changed.
var readFile = os.ReadFile

func main() {
	var witnesses cosigners
	each := flag.Bool("each-byte", false, "flip one bit in every byte of the log in turn")
	flag.Var(&witnesses, "witness", "the verifier key of a witness that must have cosigned the head")
	flag.Parse()
	if flag.NArg() != 2 {
		fmt.Fprintln(os.Stderr, "usage: verify-go [-each-byte] [-witness 'name+hash+key'] FOLDER 'name+hash+key'")
		os.Exit(2)
	}
	check := verify
	if *each {
		check = eachByte
	}
	summary, err := check(flag.Arg(0), flag.Arg(1), witnesses)
	if err != nil {
		fmt.Fprintln(os.Stderr, "REFUSED:", err)
		os.Exit(1)
	}
	fmt.Println("verified:", summary)
}

func verify(folder, vkey string, witnesses cosigners) (string, error) {
	data := filepath.Join(folder, "data")
	trust, err := readTrust(data, vkey, witnesses)
	if err != nil {
		return "", err
	}
	scope, err := readScope(data)
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(filepath.Join(data, "slice", "entries")); err == nil {
		return verifySlice(data, trust)
	}
	return verifyLog(filepath.Join(data, "log"), scope, trust)
}

// trust is whose heads are believed: those of the log's first key, of the keys that it was handed over to, each for
// the sizes of its period, and cosigned by all of the witnesses where one is asked for.
type trust struct {
	first     note.Verifier
	handovers []handover
	witnesses cosigners
}

// handover ends a key's period with a head that the next key and it have signed.
type handover struct {
	tree tlog.Tree
	next note.Verifier
}

const handoverLines = 8

func readTrust(data, vkey string, witnesses cosigners) (*trust, error) {
	first, err := note.NewVerifier(vkey)
	if err != nil {
		return nil, err
	}
	t := &trust{first: first, witnesses: witnesses}
	text, err := readFile(filepath.Join(data, "trail.periods"))
	if errors.Is(err, os.ErrNotExist) {
		return t, nil
	}
	if err != nil {
		return nil, err
	}
	lines := strings.SplitAfter(string(text), "\n")
	if lines[len(lines)-1] != "" || len(lines) == 1 || (len(lines)-1)%handoverLines != 0 {
		return nil, errors.New("the signing periods are cut")
	}
	current := first
	for at := 0; at < len(lines)-1; at += handoverLines {
		msg := []byte(strings.Join(lines[at:at+handoverLines], ""))
		next, err := note.NewVerifier(strings.TrimSuffix(lines[at+4], "\n"))
		if err != nil {
			return nil, err
		}
		opened, err := note.Open(msg, note.VerifierList(current, next))
		if err != nil {
			return nil, fmt.Errorf("a signing period: %w", err)
		}
		words := strings.Split(opened.Text, "\n")
		if len(opened.Sigs) != 2 || len(opened.UnverifiedSigs) != 0 || len(words) != 6 ||
			words[0] != "sekisho signing period v1" || next.Name() != first.Name() {
			return nil, errors.New("a signing period is not well formed")
		}
		if err := canonical(msg, opened); err != nil {
			return nil, err
		}
		tree, err := parseTree(words[1:4], first.Name())
		if err != nil {
			return nil, err
		}
		if n := len(t.handovers); n > 0 && t.handovers[n-1].tree.N >= tree.N {
			return nil, errors.New("a signing period does not begin after the one before it")
		}
		t.handovers = append(t.handovers, handover{tree, next})
		current = next
	}
	return t, nil
}

// signer is whose signature a head of this size needs.
func (t *trust) signer(size int64) note.Verifier {
	signer := t.first
	for _, handover := range t.handovers {
		if handover.tree.N < size {
			signer = handover.next
		}
	}
	return signer
}

// cosigner is a C2SP tlog-cosignature key, which Go's package leaves to its callers.
type cosigner struct {
	name string
	hash uint32
	key  ed25519.PublicKey
}

func (c cosigner) Name() string    { return c.name }
func (c cosigner) KeyHash() uint32 { return c.hash }
func (c cosigner) Verify(msg, sig []byte) bool {
	if len(sig) != 8+ed25519.SignatureSize {
		return false
	}
	signed := fmt.Sprintf("cosignature/v1\ntime %d\n%s", binary.BigEndian.Uint64(sig), msg)
	return ed25519.Verify(c.key, []byte(signed), sig[8:])
}

type cosigners []cosigner

func (c *cosigners) String() string { return fmt.Sprint(len(*c)) }
func (c *cosigners) Set(vkey string) error {
	words := strings.SplitN(vkey, "+", 3)
	if len(words) != 3 {
		return errors.New("not of the form name+hash+key")
	}
	key, err := base64.StdEncoding.Strict().DecodeString(words[2])
	if err != nil || len(key) != 1+ed25519.PublicKeySize || key[0] != 4 {
		return errors.New("not the key of a cosigner")
	}
	sum := sha256.Sum256(append([]byte(words[0]+"\n"), key...))
	hash := binary.BigEndian.Uint32(sum[:])
	if fmt.Sprintf("%08x", hash) != words[1] {
		return errors.New("the key has another hash")
	}
	*c = append(*c, cosigner{words[0], hash, key[1:]})
	return nil
}

// eachByte verifies the export, then once more with each byte of its log changed.
func eachByte(folder, vkey string, witnesses cosigners) (string, error) {
	if _, err := verify(folder, vkey, witnesses); err != nil {
		return "", err
	}
	defer func() { readFile = os.ReadFile }()
	flipped := 0
	for _, part := range []string{"log", "slice", "trail.periods"} {
		err := filepath.Walk(filepath.Join(folder, "data", part), func(path string, info os.FileInfo, err error) error {
			if err != nil || info.IsDir() {
				return nil
			}
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for at := range content {
				changed := append([]byte(nil), content...)
				changed[at] ^= 1 << (at % 8)
				readFile = func(name string) ([]byte, error) {
					if name == path {
						return changed, nil
					}
					return os.ReadFile(name)
				}
				if _, err := verify(folder, vkey, witnesses); err == nil {
					return fmt.Errorf("byte %d of %s may be changed", at, path)
				}
				flipped++
			}
			return nil
		})
		if err != nil {
			return "", err
		}
	}
	if flipped == 0 {
		return "", errors.New("there is no log")
	}
	return fmt.Sprintf("each of %d changed bytes is refused", flipped), nil
}

// scope is which entries of the log an export holds.
type scope struct {
	Scope string
	From  int64
	To    int64
}

func readScope(data string) (scope, error) {
	var s scope
	text, err := readFile(filepath.Join(data, "scope.json"))
	if err != nil {
		return s, err
	}
	return s, json.Unmarshal(text, &s)
}

// holds tells whether an entry bundle has entries that the export must have.
func (s scope) holds(first, end int64) bool {
	return s.Scope != "range" || s.From < end && first < s.To
}

// openCheckpoint believes a C2SP tlog-checkpoint only when the key of its period signed it and it names its log.
func openCheckpoint(msg []byte, trust *trust) (tlog.Tree, error) {
	tree, err := parseTree(strings.Split(string(msg), "\n"), trust.first.Name())
	if err != nil {
		return tree, err
	}
	opened, err := note.Open(msg, note.VerifierList(trust.signer(tree.N)))
	if err != nil {
		return tree, err
	}
	return tree, canonical(msg, opened)
}

// openHead believes the checkpoint that everything is under when the witnesses that are asked for have cosigned it too.
func openHead(msg []byte, trust *trust) (tlog.Tree, error) {
	tree, err := openCheckpoint(msg, trust)
	if err != nil {
		return tree, err
	}
	for _, witness := range trust.witnesses {
		if _, err := note.Open(msg, note.VerifierList(witness)); err != nil {
			return tree, fmt.Errorf("the head of size %d has no cosignature of %s", tree.N, witness.name)
		}
	}
	return tree, nil
}

// canonical refuses other spellings of the same signature, which Go's package also takes.
func canonical(msg []byte, opened *note.Note) error {
	for _, line := range strings.Split(strings.TrimSuffix(string(msg[len(opened.Text)+1:]), "\n"), "\n") {
		words := strings.Split(line, " ")
		if _, err := base64.StdEncoding.Strict().DecodeString(words[len(words)-1]); err != nil {
			return errors.New("a signature is not in its canonical form")
		}
	}
	return nil
}

// parseTree reads a log's name, size and root.
func parseTree(lines []string, origin string) (tlog.Tree, error) {
	if len(lines) < 3 || lines[0] != origin {
		return tlog.Tree{}, errors.New("the checkpoint is not of this log")
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 || strconv.FormatInt(size, 10) != lines[1] {
		return tlog.Tree{}, errors.New("the checkpoint's size is not a number")
	}
	root, err := tlog.ParseHash(lines[2])
	if err != nil {
		return tlog.Tree{}, err
	}
	return tlog.Tree{N: size, Hash: root}, nil
}

// storage holds every stored hash of the tree, as Go's package numbers them.
type storage []tlog.Hash

func (s storage) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		if index >= int64(len(s)) {
			return nil, errors.New("a hash beyond the tree")
		}
		hashes[i] = s[index]
	}
	return hashes, nil
}

func verifyLog(log string, scope scope, trust *trust) (string, error) {
	msg, err := readFile(filepath.Join(log, "checkpoint"))
	if err != nil {
		return "", err
	}
	tree, err := openHead(msg, trust)
	if err != nil {
		return "", err
	}
	var hashes storage
	var leaves []tlog.Hash
	entries := 0
	for n := int64(0); n*tileWidth < tree.N; n++ {
		first := n * tileWidth
		count := width(tree.N - first)
		var bundle []tlog.Hash
		if scope.holds(first, first+int64(count)) {
			texts, err := readBundle(log, n, count)
			if err != nil {
				return "", err
			}
			for _, text := range texts {
				bundle = append(bundle, tlog.RecordHash(text))
			}
			entries += count
		} else if bundle, err = readHashes(log, n, count); err != nil {
			return "", err
		}
		for _, leaf := range bundle {
			more, err := tlog.StoredHashesForRecordHash(int64(len(leaves)), leaf, hashes)
			if err != nil {
				return "", err
			}
			hashes = append(hashes, more...)
			leaves = append(leaves, leaf)
		}
	}
	root, err := tlog.TreeHash(tree.N, hashes)
	if err != nil {
		return "", err
	}
	if root != tree.Hash {
		return "", errors.New("the entries do not lead to the signed root")
	}
	tiles, err := checkTiles(log, tree.N, hashes)
	if err != nil {
		return "", err
	}
	// Each entry once more, the way a client without the whole log would: through the tiles alone.
	reader := tlog.TileHashReader(tree, &tileFolder{log: log, seen: map[string][]byte{}})
	for index, leaf := range leaves {
		proof, err := tlog.ProveRecord(tree.N, int64(index), reader)
		if err != nil {
			return "", fmt.Errorf("entry %d: %w", index, err)
		}
		if err := tlog.CheckRecord(proof, tree.N, tree.Hash, int64(index), leaf); err != nil {
			return "", fmt.Errorf("entry %d: %w", index, err)
		}
	}
	earlier, err := checkEarlier(log, tree, hashes, trust)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d of %d entries, %d tiles, %d checkpoints of %s, root %s",
		entries, tree.N, tiles, earlier, trust.first.Name(), tree.Hash), nil
}

// readHashes reads the hashes of entries that the export does not hold.
func readHashes(log string, n int64, count int) ([]tlog.Hash, error) {
	path := localPath(tlog.Tile{H: tileHeight, L: 0, N: n, W: count})
	data, err := readFile(filepath.Join(log, path))
	if err != nil {
		return nil, err
	}
	if len(data) != count*tlog.HashSize {
		return nil, fmt.Errorf("%s has not %d hashes", path, count)
	}
	hashes := make([]tlog.Hash, count)
	for i := range hashes {
		copy(hashes[i][:], data[i*tlog.HashSize:])
	}
	return hashes, nil
}

func width(rest int64) int {
	if rest > tileWidth {
		return tileWidth
	}
	return int(rest)
}

// readBundle reads the entries of a C2SP entry bundle: each after its length in two bytes.
func readBundle(log string, n int64, count int) ([][]byte, error) {
	path := localPath(tlog.Tile{H: tileHeight, L: -1, N: n, W: count})
	data, err := readFile(filepath.Join(log, path))
	if err != nil {
		return nil, err
	}
	var entries [][]byte
	for len(data) > 0 {
		if len(data) < 2 {
			return nil, fmt.Errorf("%s is cut", path)
		}
		length := int(data[0])<<8 | int(data[1])
		if len(data) < 2+length {
			return nil, fmt.Errorf("%s is cut", path)
		}
		entries = append(entries, data[2:2+length])
		data = data[2+length:]
	}
	if len(entries) != count {
		return nil, fmt.Errorf("%s has %d entries instead of %d", path, len(entries), count)
	}
	return entries, nil
}

// localPath is Go's path of a tile in C2SP's words: no height, and "entries" for "data".
func localPath(tile tlog.Tile) string {
	path := strings.TrimPrefix(tile.Path(), "tile/8/")
	if tile.L == -1 {
		path = "entries/" + strings.TrimPrefix(path, "data/")
	}
	return "tile/" + path
}

func checkTiles(log string, size int64, hashes storage) (int, error) {
	checked := 0
	for level := 0; size>>(tileHeight*level) > 0; level++ {
		count := size >> (tileHeight * level)
		for n := int64(0); n*tileWidth < count; n++ {
			tile := tlog.Tile{H: tileHeight, L: level, N: n, W: width(count - n*tileWidth)}
			want, err := tlog.ReadTileData(tile, hashes)
			if err != nil {
				return 0, err
			}
			got, err := readFile(filepath.Join(log, localPath(tile)))
			if err != nil {
				return 0, err
			}
			if !bytes.Equal(got, want) {
				return 0, fmt.Errorf("%s does not fit the entries", localPath(tile))
			}
			checked++
		}
	}
	return checked, nil
}

// checkEarlier holds the heads beside the log, and those at which signing periods end, to the log.
func checkEarlier(log string, tree tlog.Tree, hashes storage, trust *trust) (int, error) {
	files, err := os.ReadDir(filepath.Join(log, "checkpoints"))
	if err != nil {
		return 0, err
	}
	var earlier []tlog.Tree
	for _, file := range files {
		msg, err := readFile(filepath.Join(log, "checkpoints", file.Name()))
		if err != nil {
			return 0, err
		}
		old, err := openCheckpoint(msg, trust)
		if err != nil {
			return 0, fmt.Errorf("checkpoint %s: %w", file.Name(), err)
		}
		if strconv.FormatInt(old.N, 10) != file.Name() {
			return 0, fmt.Errorf("checkpoint %s states size %d", file.Name(), old.N)
		}
		earlier = append(earlier, old)
	}
	for _, handover := range trust.handovers {
		if handover.tree.N <= tree.N {
			earlier = append(earlier, handover.tree)
		}
	}
	for _, old := range earlier {
		proof, err := tlog.ProveTree(tree.N, old.N, hashes)
		if err != nil {
			return 0, fmt.Errorf("checkpoint %d: %w", old.N, err)
		}
		if err := tlog.CheckTree(proof, tree.N, tree.Hash, old.N, old.Hash); err != nil {
			return 0, fmt.Errorf("checkpoint %d: %w", old.N, err)
		}
	}
	return len(earlier), nil
}

// tileFolder gives Go's tile client the files of the export.
type tileFolder struct {
	log  string
	seen map[string][]byte
}

func (t *tileFolder) Height() int                         { return tileHeight }
func (t *tileFolder) SaveTiles(_ []tlog.Tile, _ [][]byte) {}
func (t *tileFolder) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var all [][]byte
	for _, tile := range tiles {
		path := localPath(tile)
		if _, ok := t.seen[path]; !ok {
			data, err := readFile(filepath.Join(t.log, path))
			if err != nil {
				return nil, err
			}
			t.seen[path] = data
		}
		all = append(all, t.seen[path])
	}
	return all, nil
}

func verifySlice(data string, trust *trust) (string, error) {
	files, err := os.ReadDir(filepath.Join(data, "slice", "entries"))
	if err != nil {
		return "", err
	}
	var tree tlog.Tree
	for number, file := range files {
		leaf, err := readFile(filepath.Join(data, "slice", "entries", file.Name()))
		if err != nil {
			return "", err
		}
		text, err := readFile(filepath.Join(data, "slice", "proofs", file.Name()+".tlog-proof"))
		if err != nil {
			return "", err
		}
		index, proof, head, err := parseProof(text, trust)
		if err != nil {
			return "", fmt.Errorf("entry %s: %w", file.Name(), err)
		}
		if strconv.FormatInt(index, 10) != file.Name() || number > 0 && head != tree {
			return "", fmt.Errorf("entry %s: the proof is of another entry or head", file.Name())
		}
		tree = head
		if err := tlog.CheckRecord(proof, head.N, head.Hash, index, tlog.RecordHash(leaf)); err != nil {
			return "", fmt.Errorf("entry %s: %w", file.Name(), err)
		}
	}
	return fmt.Sprintf("%d chosen entries of the log %s of %d entries", len(files), trust.first.Name(), tree.N), nil
}

// parseProof reads a C2SP tlog-proof.
func parseProof(text []byte, trust *trust) (int64, tlog.RecordProof, tlog.Tree, error) {
	malformed := errors.New("the proof is not well formed")
	head, msg, found := bytes.Cut(text, []byte("\n\n"))
	lines := strings.Split(string(head), "\n")
	if !found || len(lines) < 2 || lines[0] != "c2sp.org/tlog-proof@v1" || !strings.HasPrefix(lines[1], "index ") {
		return 0, nil, tlog.Tree{}, malformed
	}
	index, err := strconv.ParseInt(strings.TrimPrefix(lines[1], "index "), 10, 64)
	if err != nil {
		return 0, nil, tlog.Tree{}, malformed
	}
	var proof tlog.RecordProof
	for _, line := range lines[2:] {
		raw, err := base64.StdEncoding.Strict().DecodeString(line)
		if err != nil || len(raw) != tlog.HashSize {
			return 0, nil, tlog.Tree{}, malformed
		}
		var hash tlog.Hash
		copy(hash[:], raw)
		proof = append(proof, hash)
	}
	tree, err := openHead(msg, trust)
	return index, proof, tree, err
}
