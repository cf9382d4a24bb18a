package main

import (
	"cmp"
	"errors"
	"image"
	"image/color"
	"image/gif"
	"image/png"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

// The times for which the film shows a picture, in hundredths of a second.
const shortly, long = 90, 350

// writeFilm makes film.gif of the pictures frame-*.png in a folder, in the order of their names, and deletes these.
func writeFilm(folder string) error {
	names, err := filepath.Glob(filepath.Join(folder, "frame-*.png"))
	if err != nil {
		return err
	}
	frames := make([]image.Image, len(names))
	for i, name := range names {
		if frames[i], err = readPicture(name); err != nil {
			return err
		}
		if err := os.Remove(name); err != nil {
			return err
		}
	}
	f, err := os.Create(filepath.Join(folder, "film.gif"))
	if err != nil {
		return err
	}
	return errors.Join(gif.EncodeAll(f, animate(frames)), f.Close())
}

func readPicture(name string) (image.Image, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return png.Decode(f)
}

// animate makes a film. Pixels that are as in the frame before are transparent, which makes the film small.
func animate(frames []image.Image) *gif.GIF {
	palette := append(commonColours(frames), color.Transparent)
	unchanged := uint8(len(palette) - 1)
	nearest := map[color.Color]uint8{}
	film := &gif.GIF{}
	for i, frame := range frames {
		picture := image.NewPaletted(frame.Bounds(), palette)
		for at, c := range pixels(frame) {
			index, known := nearest[c]
			if !known {
				index = uint8(palette[:unchanged].Index(c))
				nearest[c] = index
			}
			if i > 0 && frames[i-1].At(at.X, at.Y) == c {
				index = unchanged
			}
			picture.SetColorIndex(at.X, at.Y, index)
		}
		delay := shortly
		if i == 0 || i == len(frames)-1 {
			delay = long
		}
		film.Image, film.Delay = append(film.Image, picture), append(film.Delay, delay)
	}
	return film
}

// commonColours returns the 255 colours that most pixels have.
func commonColours(frames []image.Image) color.Palette {
	const most = 255
	count := map[color.Color]int{}
	for _, frame := range frames {
		for _, c := range pixels(frame) {
			count[c]++
		}
	}
	all := slices.SortedFunc(maps.Keys(count), func(a, b color.Color) int { return cmp.Compare(count[b], count[a]) })
	return all[:min(most, len(all))]
}

// pixels yields the places and colours of a picture.
func pixels(m image.Image) iter.Seq2[image.Point, color.Color] {
	area := m.Bounds()
	return func(yield func(image.Point, color.Color) bool) {
		for y := area.Min.Y; y < area.Max.Y; y++ {
			for x := area.Min.X; x < area.Max.X; x++ {
				if !yield(image.Pt(x, y), m.At(x, y)) {
					return
				}
			}
		}
	}
}
