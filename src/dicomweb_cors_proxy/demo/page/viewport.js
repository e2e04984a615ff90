// Shows 16-bit images on a canvas: drag for window and level, wheel or slider for the images.

const WHEEL_STEP = 30; // CSS pixels, or what a notch of a wheel exceeds

export class Viewport {
  #images = []; // stored values
  #index = 0;
  #wheel = 0;

  /** `onChange(index, window)` is called whenever another image or window is shown. */
  constructor(canvas, slider, onChange) {
    this.canvas = canvas;
    this.slider = slider;
    this.onChange = onChange;
  }

  /** Makes ready for `count` images; stored values plus `intercept` are Hounsfield units. */
  open({ rows, columns, intercept, count, index, window }) {
    const { canvas, slider } = this;
    Object.assign(canvas, { width: columns, height: rows });
    Object.assign(slider, { min: 1, max: count, value: index + 1, disabled: false });
    this.context = canvas.getContext("2d");
    this.picture = this.context.createImageData(columns, rows);
    this.intercept = intercept;
    this.window = window;
    this.#index = index;
    slider.addEventListener("input", () => this.show(Number(slider.value) - 1));
    canvas.addEventListener("wheel", (event) => this.#scroll(event), { passive: false });
    canvas.addEventListener("pointerdown", (event) => canvas.setPointerCapture(event.pointerId));
    canvas.addEventListener("pointermove", (event) => this.#drag(event));
  }

  add(index, pixels) {
    this.#images[index] = new Uint16Array(pixels);
    if (index === this.#index) this.#draw();
  }

  show(index) {
    this.#index = index;
    this.slider.value = index + 1;
    this.#draw();
  }

  /** Shows the Hounsfield units of a window from black to white. */
  setWindow({ center, width }) {
    this.window = { center, width: Math.max(width, 1) };
    this.#draw();
  }

  #draw() {
    this.onChange(this.#index, this.window);
    const image = this.#images[this.#index];
    if (!image) return; // still on its way
    const { center, width } = this.window;
    const black = center - width / 2 - this.intercept;
    const pixels = new Uint32Array(this.picture.data.buffer);
    image.forEach((value, i) => {
      const grey = Math.max(0, Math.min(255, Math.round(((value - black) * 255) / width)));
      pixels[i] = 0xff000000 | (grey * 0x010101);
    });
    this.context.putImageData(this.picture, 0, 0);
  }

  #scroll(event) {
    const index = this.#index + Math.sign(event.deltaY);
    if (index < 0 || index >= this.slider.max) return; // past the ends the page scrolls
    event.preventDefault();
    this.#wheel += Math.abs(event.deltaY) * (event.deltaMode ? WHEEL_STEP : 1);
    if (this.#wheel < WHEEL_STEP) return;
    this.#wheel = 0;
    this.show(index);
  }

  #drag(event) {
    if (!event.buttons) return;
    const { center, width } = this.window;
    const step = Math.max(width, 20) / 250; // fine in narrow windows, coarse in wide ones
    this.setWindow({
      center: center + event.movementY * step,
      width: width + event.movementX * step,
    });
  }
}
