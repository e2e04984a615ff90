// The grey values of a canvas whose picture is square and in its middle, by `side` squared; null
// while the picture is of one colour.
function greys(canvas, side) {
  const length = Math.min(canvas.width, canvas.height);
  const small = new OffscreenCanvas(side, side).getContext("2d");
  const left = (canvas.width - length) / 2;
  const top = (canvas.height - length) / 2;
  small.drawImage(canvas, left, top, length, length, 0, 0, side, side);
  const { data } = small.getImageData(0, 0, side, side);
  const values = Array.from({ length: side * side }, (_, pixel) => data[4 * pixel]);
  return values.some((value) => value !== values[0]) ? values : null;
}

// Waits until `look` has found something.
function until(look) {
  return new Promise((resolve) => {
    const timer = setInterval(() => {
      const found = look();
      if (found) {
        clearInterval(timer);
        resolve(found);
      }
    }, 50);
  });
}
